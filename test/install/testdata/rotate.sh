# After authority.sh: the trust anchor and the issuer are replaced; nothing is
# restarted.

# Both anchors are believed.
meshctl upgrade --identity-trust-anchors-file both.crt | kubectl apply -f -
renewed

# The new issuer signs.
meshctl upgrade --identity-issuer-certificate-file issuer.crt --identity-issuer-key-file issuer.key | kubectl apply -f -
renewed

# The old anchor goes.
meshctl upgrade --identity-trust-anchors-file ca.crt | kubectl apply -f -
renewed
meshctl -n emojivoto identity | grep 'Issuer: CN=Our issuer'
