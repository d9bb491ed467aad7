{{- define "tunmesh.version" -}}
{{ .Values.version | default .Chart.AppVersion }}
{{- end -}}

{{- /* labels of an object: (list . "control") or (list . "cni"). tunmesh.io/component finds what is ours. */ -}}
{{- define "tunmesh.labels" -}}
{{- $root := index . 0 -}}
tunmesh.io/component: {{ index . 1 }}
app.kubernetes.io/part-of: tunmesh
app.kubernetes.io/version: {{ include "tunmesh.version" $root | trunc 63 | quote }}
{{- end -}}

{{- define "tunmesh.proxyImage" -}}
{{ .Values.proxy.image | default (printf "%s/mesh-proxy" .Values.imageRegistry) }}
{{- end -}}

{{- define "tunmesh.restricted" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end -}}
