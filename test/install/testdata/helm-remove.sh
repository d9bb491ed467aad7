# What Helm installed goes by Helm, once no pod is meshed.
kubectl delete deploy web --wait
until [ -z "$(kubectl get pods -o name)" ]; do
  sleep 1
done
helm uninstall tunmesh
until [ -z "$(kubectl get namespaces -o name | grep tunmesh)" ]; do
  sleep 1
done
