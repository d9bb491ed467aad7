# What the pages have people look at.
kubectl get nodes
kubectl -n tunmesh describe pod
kubectl -n tunmesh logs deploy/mesh-control
kubectl -n tunmesh logs deploy/mesh-view
kubectl get apiservice v1alpha1.view.tunmesh.io -o yaml
kubectl -n tunmesh rollout status deploy/mesh-control
kubectl -n tunmesh-cni get pod -o wide
kubectl -n tunmesh-cni logs -l app.kubernetes.io/name=mesh-cni
kubectl -n tunmesh-cni describe pod
kubectl -n emojivoto logs deploy/voting -c mesh-proxy

meshctl diagnostics endpoints voting-svc.emojivoto:8080
meshctl -n emojivoto diagnostics policy svc/voting-svc 8080
meshctl -n emojivoto diagnostics policy po/"$(kubectl -n emojivoto get pods -l app=voting -o jsonpath='{.items[0].metadata.name}')" 8080
meshctl completion bash > completion.sh
