# All replicas are replaced, one after the other.
kubectl -n tunmesh rollout restart deploy/mesh-control
kubectl -n tunmesh rollout status deploy/mesh-control --timeout=5m
