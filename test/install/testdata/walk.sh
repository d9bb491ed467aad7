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

# Figures, and requests as they pass.
until meshctl -n emojivoto stat deploy | tee stat.txt | grep -E '^voting +1/1 .* 100%$'; do
  sleep 1
done
(timeout 60 meshctl -n emojivoto tap deploy/voting || true) | grep -m 1 'tls=true :method=POST .*:path=/emojivoto.v1.VotingService/'

# Who may view a namespace may view its figures, and no requests.
kubectl -n emojivoto create serviceaccount viewer
as() { meshctl --as=system:serviceaccount:emojivoto:viewer -n emojivoto "$@"; }
if as stat deploy; then
  echo 'somebody without rights saw figures'
  exit 1
fi
kubectl -n emojivoto create rolebinding viewer --clusterrole=view --serviceaccount=emojivoto:viewer
until as stat deploy; do
  sleep 1
done
if as stat deploy -A || as tap deploy/voting; then
  echo 'somebody saw what is not of his namespace, or requests'
  exit 1
fi
