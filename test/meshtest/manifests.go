package meshtest

import "fmt"

// Server is a Deployment of the test application with a Service of the same
// name that has all its ports.
func Server(name string, replicas int, args ...string) string {
	list := `"testapp", "serve"`
	for _, a := range args {
		list += fmt.Sprintf(", %q", a)
	}
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata:
  name: %[1]s
  namespace: default
spec:
  replicas: %[2]d
  selector:
    matchLabels: {app: %[1]s}
  template:
    metadata:
      labels: {app: %[1]s}
      annotations: {tunmesh.io/inject: enabled}
    spec:
      containers:
        - name: app
          image: testapp
          command: [%[3]s]
          readinessProbe:
            tcpSocket: {port: 8081}
            periodSeconds: 1
---
%[4]s`, name, replicas, list, Service(name, name))
}

// Service selects app=APP and has every port of the test application.
func Service(name, app string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata:
  name: %s
  namespace: default
spec:
  selector: {app: %s}
  ports:
    - {name: http, port: 80, targetPort: 8080}
    - {name: grpc, port: 8081}
    - {name: https, port: 443, targetPort: 8443}
    - {name: echo, port: 7000}
    - {name: upload, port: 7001}
    - {name: peer, port: 7002}
    - {name: send, port: 7003}
    - {name: smtp, port: 25, targetPort: 2525}
    - {name: ssh, port: 22, targetPort: 2222}
    - {name: closed, port: 9999}
    - {name: udp, port: 5353, protocol: UDP}
`, name, app)
}

// Client is a pod that waits for commands; meshed or not.
func Client(name string, meshed bool, extra string) string {
	inject := "enabled"
	if !meshed {
		inject = "disabled"
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
  namespace: default
  labels: {app: %s}
  annotations:
    tunmesh.io/inject: %s
%sspec:
  containers:
    - name: app
      image: testapp
      command: ["sleep", "100000"]
`, name, name, inject, extra)
}
