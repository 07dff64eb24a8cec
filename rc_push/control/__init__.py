"""How do commands talk to the running daemon? Over a unix socket that only its own user and root can use.

    → {"op":"status"}                                        one request per connection, one JSON object per line
    ← {"ok":true,"result":{…}}                               the answer
    ← {"ok":false,"error":"no such handler","exitCode":1}    or why there is none
    → {"op":"tail","types":["post.*"]}
    ← {"ok":true,"result":{…}}                               a stream: several of these …
    ← {"end":true}                                           … until this one, or until the client hangs up

`server` answers, `client` asks. Knows lines and peers; knows nothing of what the operations do.
"""
