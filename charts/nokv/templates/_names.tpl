{{/* Labels of everything. Call with (dict "root" $ "part" "name"). */}}
{{- define "nokv.labels" -}}
{{ include "nokv.selector" . }}
app.kubernetes.io/part-of: nokv
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | quote }}
{{- end }}

{{/* Labels that select pods; they never change. */}}
{{- define "nokv.selector" -}}
app.kubernetes.io/name: nokv-{{ .part }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{/* Names of cluster-wide objects: two releases don't share them. */}}
{{- define "nokv.clusterName" -}}
nokv-{{ .part }}{{ if ne .root.Release.Name "nokv" }}-{{ .root.Release.Name }}{{ end }}
{{- end }}

{{/* One of our images. Call with (dict "root" $ "name" "nokv-fs"). */}}
{{- define "nokv.image" -}}
{{ .root.Values.image.registry | default "nokv" }}/{{ .name }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "nokv.provisionerImage" -}}
{{- if .Values.csi.provisioner.image -}}
{{ .Values.csi.provisioner.image }}
{{- else if .Values.image.registry -}}
{{ include "nokv.image" (dict "root" . "name" "csi-provisioner") }}
{{- else -}}
registry.k8s.io/sig-storage/csi-provisioner:v6.4.0
{{- end -}}
{{- end }}

{{- define "nokv.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where a pod may run. Call with its values. */}}
{{- define "nokv.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* The pod of a program that needs no privileges at all. */}}
{{- define "nokv.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "nokv.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "nokv.logEnv" -}}
- {name: NOKV_LOG, value: {{ .Values.log.filter | quote }}}
- {name: NOKV_LOG_FORMAT, value: {{ .Values.log.format | quote }}}
{{- end }}

{{/* Call with (dict "port" "http" "path" "/healthz"). */}}
{{- define "nokv.probe" -}}
httpGet: {path: {{ .path }}, port: {{ .port }}}
periodSeconds: 10
timeoutSeconds: 10
failureThreshold: 6
{{- end }}

{{/* Whether there is anything for a metadata server to keep bytes in. */}}
{{- define "nokv.hasServer" -}}
{{- if and .Values.metadataServer.enabled (or .Values.trialStore.enabled .Values.objectStore.endpoint) }}true{{ end }}
{{- end }}

{{- define "nokv.trialSecret" -}}
{{ .Values.trialStore.existingSecret | default "nokv-trial-store" }}
{{- end }}

{{- define "nokv.check" -}}
{{- if and .Values.trialStore.enabled .Values.objectStore.endpoint }}
{{- fail "set either trialStore.enabled or objectStore.endpoint, not both" }}
{{- end }}
{{- if .Values.objectStore.endpoint }}
{{- if not .Values.objectStore.bucket }}{{ fail "objectStore.bucket is missing: name a bucket that exists" }}{{ end }}
{{- if not .Values.objectStore.existingSecret }}{{ fail "objectStore.existingSecret is missing: make a Secret with the keys accessKey and secretKey in this namespace and name it" }}{{ end }}
{{- end }}
{{- if and .Values.metadataServer.storage.ephemeral .Values.metadataServer.storage.storageClassName }}
{{- fail "metadataServer.storage: ephemeral storage has no storageClassName, remove one of both" }}
{{- end }}
{{- end }}
