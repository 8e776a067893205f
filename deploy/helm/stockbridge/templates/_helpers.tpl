{{- define "stockbridge.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Labels of everything; (list . "order-pusher") */}}
{{- define "stockbridge.labels" -}}
{{ include "stockbridge.selector" . }}
{{- with index . 0 }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}
{{- end }}

{{- define "stockbridge.selector" -}}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "stockbridge.image" -}}
{{- $root := index . 0 -}}
{{ printf "%s/%s:%s" $root.Values.image.repository (index . 1) ($root.Values.image.tag | default $root.Chart.AppVersion) }}
{{- end }}

{{/* Every pod of ours: no token, no rights. */}}
{{- define "stockbridge.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "stockbridge.container" -}}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{- define "stockbridge.natsURL" -}}
{{- if .Values.nats.url }}{{ .Values.nats.url }}
{{- else if .Values.trial.enabled }}nats://{{ include "stockbridge.fullname" . }}-nats:4222
{{- else }}{{ fail "nats.url or nats.existingSecret is required: where the NATS servers are (or trial.enabled, for one in this release). 请设置 nats.url 或 nats.existingSecret。" }}
{{- end }}
{{- end }}

{{/* Where a program connects, and as whom; (list . "order-pusher") */}}
{{- define "stockbridge.connections" -}}
{{- $root := index . 0 }}{{ $service := index . 1 }}
{{- with $root.Values }}
- name: NATS_URL
{{- if .nats.existingSecret }}
  valueFrom: { secretKeyRef: { name: {{ .nats.existingSecret }}, key: {{ $service }} } }
{{- else }}
  value: {{ include "stockbridge.natsURL" $root | quote }}
{{- end }}
{{- if .nats.credsSecret }}
- name: NATS_CREDS
  value: /run/secrets/nats/{{ $service }}.creds
{{- end }}
{{- if .redis.existingSecret }}
- name: REDIS_URL
  valueFrom: { secretKeyRef: { name: {{ .redis.existingSecret }}, key: {{ .redis.existingSecretKey }} } }
{{- else if .redis.url }}
- name: REDIS_URL
  value: {{ .redis.url | quote }}
{{- end }}
{{- if .caConfigMap }}
- name: SSL_CERT_DIR # beside the image's own bundle
  value: /run/ca
{{- end }}
{{- end }}
{{- end }}

{{- define "stockbridge.connectionMounts" -}}
{{- with (index . 0).Values }}
{{- if .nats.credsSecret }}
- { name: nats-creds, mountPath: /run/secrets/nats, readOnly: true }
{{- end }}
{{- if .caConfigMap }}
- { name: ca, mountPath: /run/ca, readOnly: true }
{{- end }}
{{- end }}
{{- end }}

{{- define "stockbridge.connectionVolumes" -}}
{{- $service := index . 1 }}
{{- with (index . 0).Values }}
{{- if .nats.credsSecret }}
- name: nats-creds
  secret:
    secretName: {{ .nats.credsSecret }}
    items: [{ key: {{ $service }}.creds, path: {{ $service }}.creds }]
{{- end }}
{{- if .caConfigMap }}
- name: ca
  configMap: { name: {{ .caConfigMap }} }
{{- end }}
{{- end }}
{{- end }}

{{/* How this release's sandbox is reached, beside settings; (list . settings) */}}
{{- define "stockbridge.sandboxEnv" -}}
{{- $root := index . 0 }}
{{- if $root.Values.sandbox.enabled }}
# What the sandbox takes; they are public.
- name: JD_APP_SECRET
  value: sandbox-secret
- name: JD_ACCESS_TOKEN
  value: sandbox-token
{{- if not (hasKey (index . 1) "SELLER_HTTP_HOSTS") }}
# It has no TLS.
- name: SELLER_HTTP_HOSTS
  value: {{ include "stockbridge.fullname" $root }}-jd-sandbox
{{- end }}
{{- end }}
{{- end }}

{{/* What a worker has mounted; (list . "order-pusher" secretFiles) */}}
{{- define "stockbridge.workerMounts" -}}
{{- include "stockbridge.connectionMounts" . }}
{{- range $key, $_ := index . 2 }}
- { name: {{ $key | lower | replace "_" "-" }}, mountPath: /run/secrets/settings/{{ $key }}, readOnly: true }
{{- end }}
{{- range (index . 0).Values.sellerSecrets }}{{ if eq .as "files" }}
- { name: seller-{{ .name | replace "." "-" }}, mountPath: /run/secrets/sellers/{{ .name }}, readOnly: true }
{{- end }}{{ end }}
{{- end }}

{{- define "stockbridge.workerVolumes" -}}
{{- include "stockbridge.connectionVolumes" . }}
{{- range $key, $from := index . 2 }}
- name: {{ $key | lower | replace "_" "-" }}
  secret: { secretName: {{ $from.secret }}, items: [{ key: {{ $from.key }}, path: value }] }
{{- end }}
{{- range (index . 0).Values.sellerSecrets }}{{ if eq .as "files" }}
- name: seller-{{ .name | replace "." "-" }}
  secret: { secretName: {{ .name }} }
{{- end }}{{ end }}
{{- end }}
