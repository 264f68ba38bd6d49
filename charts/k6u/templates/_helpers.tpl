{{- define "k6u.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "k6u.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "k6u.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "k6u.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "k6u.selectorLabels" -}}
app.kubernetes.io/name: {{ include "k6u.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "k6u.labels" -}}
{{ include "k6u.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "k6u.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "k6u.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is required if serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "k6u.subjects" -}}
subjects:
- kind: ServiceAccount
  name: {{ include "k6u.serviceAccountName" . | quote }}
  namespace: {{ .Release.Namespace | quote }}
{{- end -}}

{{- /* The node runs what the digest says, whatever the tag is. */ -}}
{{- define "k6u.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}{{ with .tag }}:{{ . }}{{ end }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The spec of the IP6UpdateConfig; empty if there is none. */ -}}
{{- define "k6u.config" -}}
{{- $shorthand := pick .Values "delegatedPrefixLength" "ciliumCIDRGroups" -}}
{{- if and $shorthand .Values.config -}}
{{- fail "set either config, or delegatedPrefixLength and ciliumCIDRGroups" -}}
{{- end -}}
{{- with .Values.config | default $shorthand -}}
{{ toYaml . }}
{{- end -}}
{{- end -}}
