# Every replica is lost at once while pods may only be made with the injector's
# word: pods wait for it, and none comes without its sidecar.
kubectl -n tunmesh delete pods --all --force --grace-period=0
kubectl rollout restart deploy/web
kubectl rollout status deploy/web --timeout=3m
meshctl check --proxy
