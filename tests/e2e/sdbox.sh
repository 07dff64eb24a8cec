#!/usr/bin/env bash
# Boot a real systemd as PID 1 of its own namespaces (pid, mount, net, uts, ipc, cgroup) over a throw-away overlay of this
# machine's root: nothing outside changes, and its network is its own loopback. Needs root, unshare, systemd, dbus.
# usage: sdbox.sh FOLDER     FOLDER is an empty directory, /box inside, where both sides leave files for each other.
# Runs until its stdin ends (also when who has started it dies), and takes everything inside with it.
set -euo pipefail
box=$1; export box

# Its own branch of the machine's cgroup v2 tree, which is /sys/fs/cgroup or, beside v1, a folder of it.
cgroups=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
[ -n "$cgroups" ] || { echo "no cgroup v2 here" >&2; exit 1; }
cgroup=$(mktemp -d "$cgroups/sdbox.XXXXXX")
tidy() {
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
    [ -d "$cgroup" ] || break
    sleep 0.1
  done
}
trap tidy EXIT

(
  echo $BASHPID > "$cgroup/cgroup.procs"
  exec unshare --pid --fork --kill-child --mount --uts --ipc --net --cgroup bash -euc '
    mount --make-rprivate /
    layers=/mnt; mount -t tmpfs -o size=2g tmpfs "$layers"; mkdir "$layers"/{upper,work,root}; root=$layers/root
    mount -t overlay overlay -o "lowerdir=/,upperdir=$layers/upper,workdir=$layers/work" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"; mkdir "$root/run/lock"
    mount -t tmpfs tmpfs "$root/tmp"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    cd "$root/dev"; mkdir pts shm
    for device in null zero full random urandom tty; do touch $device; mount --bind /dev/$device $device; done
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts pts; ln -s pts/ptmx ptmx; mount -t tmpfs tmpfs shm
    ln -s /proc/self/fd fd; ln -s fd/0 stdin; ln -s fd/1 stdout; ln -s fd/2 stderr
    mkdir "$root/box"; mount --bind "$box" "$root/box"

    cd "$root/etc"; echo sdbox > hostname; : > machine-id; : > fstab; units=systemd/system
    rm -rf $units/*.wants; mkdir -p $units
    for unit in systemd-{udevd,udev-trigger,modules-load,sysctl,remount-fs,networkd,timesyncd,logind,update-utmp,binfmt}; do
      ln -sf /dev/null $units/$unit.service
    done
    printf "%s\n" "[Unit]" "Requires=basic.target" "Wants=dbus.service" "After=basic.target dbus.service" > $units/sdbox.target
    ip link set lo up; hostname sdbox
    cd "$root"; mkdir -p .old; pivot_root . .old; umount -l /.old
    mount --make-rshared /  # else the credentials of units are invisible
    exec env -i container=sdbox PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
      /lib/systemd/systemd --system --unit=sdbox.target --show-status=no --log-target=journal
  '
) < /dev/null &
inner=$!
exec 3<&0
{ cat > /dev/null; kill -KILL $inner; } <&3 &  # unshare does not hear SIGTERM
wait $inner
