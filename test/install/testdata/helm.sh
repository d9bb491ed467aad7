# The chart by Helm, with certificates that somebody brings.
helm install tunmesh deploy/chart --set-file identity.trustAnchorsPEM=ca.crt \
  --set-file identity.issuer.certificatePEM=issuer.crt --set-file identity.issuer.keyPEM=issuer.key
meshctl check

kubectl create deployment web --image=docker.io/tunmesh-test/testapp:v1 -- /testapp serve
kubectl get deploy web -o yaml | meshctl inject - | kubectl apply -f -
kubectl rollout status deploy/web --timeout=3m
meshctl check --proxy

# Other values, by Helm as well.
helm upgrade tunmesh deploy/chart --reuse-values --set injector.failurePolicy=Fail
meshctl check --proxy
kubectl get mutatingwebhookconfiguration tunmesh-injector -o jsonpath='{.webhooks[*].failurePolicy}{"\n"}' | grep Fail
