# What every introduction has people type. The sample's image has the version's tag
# here, so that no registry is asked.
meshctl check --pre
meshctl install | kubectl apply -f -
meshctl check

kubectl apply -f emojivoto.yaml
kubectl label namespace emojivoto pod-security.kubernetes.io/enforce=restricted
kubectl -n emojivoto get deploy -o yaml | meshctl inject - | kubectl apply -f -
kubectl -n emojivoto rollout status deploy --timeout=3m
meshctl check --proxy -n emojivoto
meshctl version --proxy
meshctl -n emojivoto identity

until meshctl -n emojivoto diagnostics proxy-metrics deploy/voting |
    grep 'request_total{direction="inbound".*tls="true".*client_id="web.emojivoto'; do
  sleep 1
done
