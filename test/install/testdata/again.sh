# Once more, with certificates that somebody brings; the sample is not meshed now.
meshctl install --identity-trust-anchors-file ca.crt \
  --identity-issuer-certificate-file issuer.crt --identity-issuer-key-file issuer.key | kubectl apply -f -
meshctl check
meshctl upgrade | kubectl apply -f -
meshctl prune | kubectl delete --ignore-not-found -f -

kubectl get ns,deploy,sts,ds,cronjob -A -o yaml | meshctl uninject - | kubectl apply -f -
meshctl uninstall | kubectl delete -f -
