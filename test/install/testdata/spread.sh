# Pods on all nodes, meshed by high availability's injector.
kubectl create deployment web --replicas=4 --image=docker.io/tunmesh-test/testapp:v1 -- /testapp serve
kubectl get deploy -o yaml | meshctl inject - | kubectl apply -f -
kubectl rollout status deploy/web --timeout=3m
meshctl check --proxy
