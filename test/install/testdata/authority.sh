# A trust anchor, an issuer of it, and what is believed while they take the place of
# those in force: docs/install.md#certificates.
renewed() {
  until { meshctl check --proxy --wait=0s || true; } |
      grep '√ data plane proxies have certificates of the issuer and the trust anchors in force'; do
    sleep 1
  done
}

# Keep ca.key offline.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj '/CN=Our trust anchor' \
  -addext 'keyUsage=critical,keyCertSign,cRLSign' -keyout ca.key -out ca.crt
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=Our issuer' -keyout issuer.key -out issuer.csr
printf 'basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n' > issuer.ext
openssl x509 -req -in issuer.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile issuer.ext -out issuer.crt

# Both anchors.
kubectl -n tunmesh get configmap tunmesh-trust-anchors -o go-template='{{index .data "ca-bundle.crt"}}{{"\n"}}' > old.crt
cat old.crt ca.crt > both.crt
