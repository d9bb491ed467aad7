# Other values, then the same again; nothing but the control plane's own pods changes.
meshctl upgrade --ha | kubectl apply -f -
meshctl check
kubectl -n tunmesh get poddisruptionbudget mesh-control
meshctl upgrade --set control.replicas=1 --set injector.failurePolicy=Ignore | kubectl apply -f -
meshctl prune | kubectl delete -f -
meshctl check --proxy
meshctl diagnostics controller-metrics | grep certificate_authority_healthy

# As a plugin of kubectl.
ln -s "$(command -v meshctl)" kubectl-mesh
PATH=$PWD:$PATH kubectl mesh check
