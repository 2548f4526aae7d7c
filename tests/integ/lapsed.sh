#!/bin/bash
# ctest: TIMEOUT=300
# A device that was off for longer than its certificate lived gets a new one for its key, without a token; a revoked one does not.
. "$(dirname "$0")/lib.sh"
make_coordinator --set device-cert=10s
enrol dev
enrol out
ok edgewise device revoke out --operator "$co/operator"
until_ 30 "both certificates expire" not openssl x509 -in out/identity.pem -noout -checkend 0
cp dev/identity.pem old.pem
start_agent dev --threads 1
until_ 30 "dev gets a new certificate" logged dev 'enrolled-again' 1
until_ 30 "dev is connected" is_connected dev
check "the key changed" cmp <(openssl pkey -in old.pem -pubout) <(openssl pkey -in dev/identity.pem -pubout)
start_agent out --threads 1
until_ 60 "out is refused" logged out 'no active device has this key' 1
check "a revoked device is connected" not is_connected out
echo "lapsed: ok"
