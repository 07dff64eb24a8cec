"""What is served over HTTP, where `[web] listen` says so: pages for programs that watch, all of them read-only.

`site` says who may ask for what, `server` keeps the connections within bounds. Knows HTTP; knows nothing of the pages.
"""
