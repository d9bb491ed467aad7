# Node agents from one hand and the rest from another, then high availability.
meshctl install-cni | kubectl apply -f -
meshctl install --set cni.enabled=false | kubectl apply -f -
meshctl upgrade --ha | kubectl apply -f -
meshctl check
meshctl prune | kubectl delete --ignore-not-found -f -

kubectl create deployment web --replicas=4 --image=docker.io/tunmesh-test/testapp:v1 -- /testapp serve
kubectl get deploy -o yaml | meshctl inject - | kubectl apply -f -
kubectl rollout status deploy/web --timeout=3m
meshctl check --proxy
