# After authority.sh: the same by Helm, which upgrades what it installed.

# Both anchors are believed.
helm upgrade tunmesh deploy/chart --reuse-values --set-file identity.trustAnchorsPEM=both.crt
renewed

# The new issuer signs.
helm upgrade tunmesh deploy/chart --reuse-values --set-file identity.issuer.certificatePEM=issuer.crt \
  --set-file identity.issuer.keyPEM=issuer.key
renewed

# The old anchor goes.
helm upgrade tunmesh deploy/chart --reuse-values --set-file identity.trustAnchorsPEM=ca.crt
renewed
meshctl identity
