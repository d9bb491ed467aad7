# The trust anchor and the issuer are replaced, as docs/install.md has it: nothing
# is restarted.
renewed() {
  until { meshctl check --proxy --wait=0s || true; } |
      grep '√ data plane proxies have certificates of the issuer and the trust anchors in force'; do
    sleep 1
  done
}

# A trust anchor and an issuer of it. Keep ca.key offline.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj '/CN=Our trust anchor' \
  -addext 'keyUsage=critical,keyCertSign,cRLSign' -keyout ca.key -out ca.crt
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=Our issuer' -keyout issuer.key -out issuer.csr
printf 'basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n' > issuer.ext
openssl x509 -req -in issuer.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile issuer.ext -out issuer.crt

# Both anchors are believed.
kubectl -n tunmesh get configmap tunmesh-trust-anchors -o go-template='{{index .data "ca-bundle.crt"}}{{"\n"}}' > old.crt
cat old.crt ca.crt > both.crt
meshctl upgrade --identity-trust-anchors-file both.crt | kubectl apply -f -
renewed

# The new issuer signs.
meshctl upgrade --identity-issuer-certificate-file issuer.crt --identity-issuer-key-file issuer.key | kubectl apply -f -
renewed

# The old anchor goes.
meshctl upgrade --identity-trust-anchors-file ca.crt | kubectl apply -f -
renewed
meshctl -n emojivoto identity | grep 'Issuer: CN=Our issuer'
