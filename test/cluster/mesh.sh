# The mesh and the sample application, in the cluster of make cluster.
meshctl install | kubectl apply -f -
meshctl check
sed "s|emojivoto:latest|emojivoto:$VERSION|" deploy/sample/emojivoto.yaml | meshctl inject - | kubectl apply -f -
kubectl -n emojivoto rollout status deploy --timeout=5m
meshctl check --proxy -n emojivoto -o short
cat <<EOF

The mesh is installed, and emojivoto is in it. To see it, after what is said below:

  export PATH=$(dirname "$(command -v meshctl)"):\$PATH
  meshctl -n emojivoto stat deploy
  meshctl -n emojivoto tap deploy/web
  meshctl -n emojivoto identity
  meshctl -n emojivoto diagnostics proxy-metrics deploy/web
  kubectl -n emojivoto port-forward svc/web-svc 8080:80
EOF
