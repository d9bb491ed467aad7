# All replicas are replaced, one after the other.
kubectl -n tunmesh rollout restart deploy/mesh-control
kubectl -n tunmesh rollout status deploy/mesh-control --timeout=5m

# What people look by is, too: traffic does not need it.
kubectl -n tunmesh rollout restart deploy/mesh-view
kubectl -n tunmesh rollout status deploy/mesh-view --timeout=5m
