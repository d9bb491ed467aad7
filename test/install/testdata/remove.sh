# While pods have a sidecar, uninstall names them and fails.
if meshctl uninstall > uninstall.yaml; then
  echo 'uninstall went on while pods were injected'
  exit 1
fi
kubectl -n emojivoto get deploy -o yaml | meshctl uninject - | kubectl apply -f -
kubectl -n emojivoto rollout status deploy --timeout=3m
# The pods that were replaced take a moment to end.
until meshctl uninstall > uninstall.yaml; do
  sleep 1
done
kubectl delete -f uninstall.yaml
