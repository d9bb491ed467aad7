# Node agents from one hand and the rest from another, then high availability, which
# install has, too.
meshctl install --ha > ha.yaml
meshctl install-cni | kubectl apply -f -
meshctl install --set cni.enabled=false | kubectl apply -f -
meshctl upgrade --ha | kubectl apply -f -
meshctl check
meshctl prune | kubectl delete --ignore-not-found -f -
