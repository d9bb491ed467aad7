# A volume for what mesh-view keeps: figures outlive its pod. The volume is in
# volume.yaml here, where others have a StorageClass.
kubectl apply -f volume.yaml
meshctl upgrade --set view.store.persistentVolume.enabled=true | kubectl apply -f -
kubectl -n tunmesh rollout status deploy/mesh-view --timeout=3m
meshctl check | grep '√ what mesh-view has counted outlives it'

# Requests are counted, then there are no more of them.
until meshctl -n emojivoto stat deploy | grep -E '^voting +1/1 .* 100%$'; do
  sleep 1
done
kubectl -n emojivoto scale deploy/vote-bot --replicas=0
until [ -z "$(kubectl -n emojivoto get pods -l app=vote-bot -o name)" ]; do
  sleep 1
done

# How many they were, as of a moment that has passed.
ask='/apis/view.tunmesh.io/v1alpha1/prometheus/api/v1/query?query=sum(response_total%7Bdeployment%3D%22voting%22%7D)&time='
until echo "$ask$(($(date +%s) - 10))" > question && kubectl get --raw "$(cat question)" | tee then.json | grep '"value":'; do
  sleep 1
done
