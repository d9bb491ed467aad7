# After volume.sh, and after the pod's or the program's end: what was counted before
# is there as it was.
kubectl -n tunmesh rollout status deploy/mesh-view --timeout=3m
until kubectl get --raw "$(cat question)" > now.json; do
  sleep 1
done
diff then.json now.json
meshctl -n emojivoto stat deploy -t 10m | grep -E '^voting +1/1 .* [0-9.]*[1-9][0-9.]*rps .* 100%$'
