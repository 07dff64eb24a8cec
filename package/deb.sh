#!/usr/bin/env bash
# Build a .deb of the wheel $1 into the folder $2: an environment of its own in /opt/rc-push, units, user, configuration,
# completions, man page. Needs dpkg-deb, and the Python that the package is to run with ($DEB_PYTHON, Debian's by default). $DEB_COMPRESSION is for those in a hurry.
# What is downloaded is held to the hashes of requirements/run.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
wheel=$1 out=$2 python=${DEB_PYTHON:-/usr/bin/python3}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y pyproject.toml)}

command -v dpkg-deb >/dev/null || { echo "package/deb.sh needs dpkg-deb: build on Debian or one of its kin" >&2; exit 1; }
umask 022
root=$(mktemp -d); trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
app=$root/opt/rc-push share=$root/usr/share

# The environment is made here and runs there, so nothing in it may remember this place: scripts, and what is compiled.
"$python" -m venv --without-pip "$app"
install_() { .venv/bin/pip --disable-pip-version-check --quiet --python "$app/bin/python" install --no-compile --no-deps "$@"; }
install_ --require-hashes -r requirements/run.txt
install_ --no-index "$wheel"
find "$app/bin" -type f ! -name rc-push -delete
find "$app" -name direct_url.json -delete
rm -r "$app/include"
sed -i "1s|.*|#!/opt/rc-push/bin/python|" "$app/bin/rc-push"
"$app/bin/python" -c 'import sys; print(f"home = {sys.base_exec_prefix}/bin\ninclude-system-site-packages = false\nversion = {sys.version.split()[0]}")' > "$app/pyvenv.cfg"
"$app/bin/python" -m compileall -q -j 2 --invalidation-mode unchecked-hash -s "$root" -p / "$app/lib"

install -d "$root/usr/bin" "$root/usr/lib/systemd/system" "$root/etc/rc-push"
ln -s /opt/rc-push/bin/rc-push "$root/usr/bin/rc-push"
install -m 644 systemd/*.service "$root/usr/lib/systemd/system/"
install -D -m 644 systemd/sysusers.d.conf "$root/usr/lib/sysusers.d/rc-push.conf"
install -D -m 644 systemd/tmpfiles.d.conf "$root/usr/lib/tmpfiles.d/rc-push.conf"
install -D -m 644 systemd/logrotate "$root/etc/logrotate.d/rc-push"
# the starter file, with the secrets where the unit puts them
sed -e 's|^client_id = .*|client_id = ""|' \
    -e 's|^client_secret = .*|client_secret = { credential = "rc-client-secret" }|' \
    -e 's|^jwt = .*|jwt = { credential = "rc-jwt" }|' \
    -e 's|^#control = |control = |' config.example.toml > "$root/etc/rc-push/config.toml"

doc=$share/doc/rc-push
install -d "$doc" "$share/man/man1" "$share/bash-completion/completions" "$share/zsh/vendor-completions" "$share/fish/vendor_completions.d"
cp README.md ARCHITECTURE.md docs/*.md "$doc/"
install -m 644 LICENSE "$doc/copyright"
gzip -9nc CHANGELOG.md > "$doc/changelog.gz"
cp -r systemd/drop-ins "$doc/"
"$app/bin/python" package/man.py | gzip -9n > "$share/man/man1/rc-push.1.gz"
complete() { env "_RC_PUSH_COMPLETE=$1_source" "$app/bin/python" -c 'import sys; from rc_push.__main__ import main; sys.exit(main([]))'; }
complete bash > "$share/bash-completion/completions/rc-push"
complete zsh > "$share/zsh/vendor-completions/_rc-push"
complete fish > "$share/fish/vendor_completions.d/rc-push.fish"

find "$app" -name '__pycache__' -path '*/bin/*' -prune -exec rm -r {} +
ln -sfn "$("$python" -c 'import os, sys; print(os.path.realpath(sys.executable))')" "$app/bin/python3"
ln -sfn python3 "$app/bin/python"
find "$app/bin" -type l ! -name python ! -name python3 -delete

version=$(basename "$wheel" | cut -d- -f2)
minor=$("$python" -c 'import sys; print(sys.version_info.minor)')
install -d "$root/DEBIAN"
for script in postinst prerm postrm; do install -m 755 "package/deb/$script" "$root/DEBIAN/"; done
install -m 644 package/deb/conffiles "$root/DEBIAN/"
sed -e "s|@VERSION@|$version|; s|@ARCHITECTURE@|$(dpkg --print-architecture)|; s|@SIZE@|$(du -sk "$root" | cut -f1)|" \
    -e "s|@PYTHON@|3.$minor|; s|@NEXT_PYTHON@|3.$((minor + 1))|" package/deb/control > "$root/DEBIAN/control"
find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$out"
dpkg-deb --root-owner-group "-Z${DEB_COMPRESSION:-xz}" --build "$root" "$out" | sed 's/^dpkg-deb: //'
