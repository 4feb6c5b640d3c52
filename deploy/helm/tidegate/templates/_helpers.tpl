{{- define "tidegate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "tidegate.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "tidegate.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "tidegate.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "tidegate.selector" -}}
app.kubernetes.io/name: {{ include "tidegate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tidegate.labels" -}}
{{ include "tidegate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "tidegate.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "tidegate.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "tidegate.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "tidegate.isMany" -}}
{{- if or .Values.autoscaling.enabled (gt (int .Values.replicaCount) 1) -}}yes{{- end -}}
{{- end -}}

{{- /* What would start and not work. */ -}}
{{- define "tidegate.check" -}}
{{- $engine := dig "engine" "type" "memory" .Values.config -}}
{{- if and (include "tidegate.isMany" .) (ne $engine "redis") -}}
{{- fail (printf "more than one node needs an engine that they share: set config.engine.type to \"redis\" (it is %q), or replicaCount to 1 and autoscaling.enabled to false" $engine) -}}
{{- end -}}
{{- $store := dig "control" "store" "sqlite" .Values.config -}}
{{- if and .Values.autoscaling.enabled (ne $store "postgres") -}}
{{- fail (printf "autoscaling needs a control store that the nodes share, for a new pod has no plugins, apps and keys otherwise: set config.control.store to \"postgres\" (it is %q), and TIDEGATE_CONTROL_POSTGRES_URL in existingSecret" $store) -}}
{{- end -}}
{{- range $path := list "client.token.hmac_secret_key" "client.token.hmac_previous_secret_key" "http_api.key" "admin_api.key" "engine.redis.password" "engine.redis.sentinel_password" "control.postgres.url" "control.postgres.tls.key_pem" -}}
{{- $place := $.Values.config -}}
{{- range $part := splitList "." $path -}}
{{- if kindIs "map" $place -}}{{- $place = get $place $part -}}{{- else -}}{{- $place = "" -}}{{- end -}}
{{- end -}}
{{- if $place -}}
{{- fail (printf "config.%s is a secret, and a ConfigMap is no place for it: put it into existingSecret as %s" $path (printf "TIDEGATE_%s" ($path | upper | replace "." "_"))) -}}
{{- end -}}
{{- end -}}
{{- $redis := dig "engine" "redis" dict .Values.config -}}
{{- range $key := list "address" "cluster_address" "sentinel_address" -}}
{{- range $address := get $redis $key | default list -}}
{{- if contains "@" $address -}}
{{- fail "an address under config.engine.redis has a password in it, and a ConfigMap is no place for it: put user and address into config, and the password into existingSecret as TIDEGATE_ENGINE_REDIS_PASSWORD" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $timeout := dig "shutdown" "timeout" "30s" .Values.config -}}
{{- if regexMatch "^[0-9]+s$" $timeout -}}
{{- $needed := add (trimSuffix "s" $timeout | int) .Values.preStopSleepSeconds -}}
{{- if le (int .Values.terminationGracePeriodSeconds) (int $needed) -}}
{{- fail (printf "terminationGracePeriodSeconds has to be longer than preStopSleepSeconds and config.shutdown.timeout together, %d s; otherwise the kubelet kills a node that drains" $needed) -}}
{{- end -}}
{{- end -}}
{{- end -}}
