{{- define "connector.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "connector.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "connector.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- with .Values.image.digest }}@{{ . }}{{ end -}}
{{- end -}}

{{- /* What a pod of ours may do: nothing. */ -}}
{{- define "connector.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "connector.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* What a service uses: broker, state database, spool. Each takes the service's name. */ -}}
{{- define "connector.usesBroker" -}}
{{- if ne . "schema" }}yes{{ end -}}
{{- end -}}
{{- define "connector.usesState" -}}
{{- if has . (list "fetcher" "deliverer" "postmaster" "schema") }}yes{{ end -}}
{{- end -}}
{{- define "connector.usesSpool" -}}
{{- if has . (list "fetcher" "deliverer" "postmaster") }}yes{{ end -}}
{{- end -}}

{{- /* The database role of a service: its own name, or the owner's. Takes the root, the service. */ -}}
{{- define "connector.role" -}}
{{- if eq (index . 1) "schema" }}{{ (index . 0).Values.state.owner }}{{ else }}{{ index . 1 }}{{ end -}}
{{- end -}}

{{- /* The environment of a service. Takes a list: the root, the name of the service. */ -}}
{{- define "connector.env" -}}
{{- $root := index . 0 }}{{ $service := index . 1 }}{{ $values := $root.Values -}}
- {name: POP3_CONNECTOR_CONFIG, value: /etc/pop3-connector/connector.toml}
- {name: POP3_CONNECTOR__DATA_DIR, value: /tmp}
{{- if include "connector.usesBroker" $service }}
{{- if $values.broker.urls }}
- {name: POP3_CONNECTOR__BROKER__URLS, value: {{ join "," $values.broker.urls | quote }}}
{{- else }}
- {name: POP3_CONNECTOR__BROKER__URL, value: {{ $values.broker.url | quote }}}
{{- end }}
- {name: POP3_CONNECTOR__BROKER__USERNAME_FILE, value: /run/secrets/broker/username}
- {name: POP3_CONNECTOR__BROKER__PASSWORD_FILE, value: /run/secrets/broker/password}
{{- if $values.broker.caSecret }}
- {name: POP3_CONNECTOR__BROKER__CA_FILE, value: /run/ca/broker/ca.crt}
{{- end }}
{{- end }}
{{- if include "connector.usesState" $service }}
- {name: POP3_CONNECTOR__STATE__URL, value: {{ $values.state.url | replace "NAME" (include "connector.role" .) | quote }}}
- {name: POP3_CONNECTOR__STATE__PASSWORD_FILE, value: /run/secrets/database/password}
{{- end }}
{{- if include "connector.usesSpool" $service }}
{{- if $values.spool.existingClaim }}
- {name: POP3_CONNECTOR__SPOOL__URL, value: /var/spool/pop3-connector}
{{- else }}
- {name: POP3_CONNECTOR__SPOOL__URL, value: {{ $values.spool.url | quote }}}
{{- if $values.spool.endpoint }}
- {name: AWS_ENDPOINT_URL_S3, value: {{ $values.spool.endpoint | quote }}}
{{- end }}
{{- if $values.spool.credentialsSecret }}
- {name: AWS_SHARED_CREDENTIALS_FILE, value: /run/secrets/spool/credentials}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Where a service sees its volumes. Takes the same list. */ -}}
{{- define "connector.mounts" -}}
{{- $root := index . 0 }}{{ $service := index . 1 }}{{ $values := $root.Values -}}
- {name: tmp, mountPath: /tmp}
- {name: config, mountPath: /etc/pop3-connector, readOnly: true}
{{- if include "connector.usesBroker" $service }}
- {name: broker, mountPath: /run/secrets/broker, readOnly: true}
{{- if $values.broker.caSecret }}
- {name: broker-ca, mountPath: /run/ca/broker, readOnly: true}
{{- end }}
{{- end }}
{{- if include "connector.usesState" $service }}
- {name: database, mountPath: /run/secrets/database, readOnly: true}
{{- if $values.state.caSecret }}
- {name: state-ca, mountPath: /run/ca/state, readOnly: true}
{{- end }}
{{- end }}
{{- if include "connector.usesSpool" $service }}
{{- if $values.spool.existingClaim }}
- {name: spool, mountPath: /var/spool/pop3-connector}
{{- else if $values.spool.credentialsSecret }}
- {name: spool, mountPath: /run/secrets/spool, readOnly: true}
{{- end }}
{{- end }}
{{- if and (eq $service "fetcher") $values.accountsSecret }}
- {name: accounts, mountPath: /run/secrets/accounts, readOnly: true}
{{- end }}
{{- if and (eq $service "deliverer") $values.destinationsSecret }}
- {name: destinations, mountPath: /run/secrets/destinations, readOnly: true}
{{- end }}
{{- end -}}

{{- /* The volumes of a service. Takes the same list. Secrets are readable by fsGroup alone. */ -}}
{{- define "connector.volumes" -}}
{{- $root := index . 0 }}{{ $service := index . 1 }}{{ $values := $root.Values -}}
- {name: tmp, emptyDir: {sizeLimit: {{ $values.tmpSize }}}}
{{- if $values.configClaim }}
- {name: config, persistentVolumeClaim: {claimName: {{ $values.configClaim }}, readOnly: true}}
{{- else }}
- {name: config, configMap: {name: {{ include "connector.name" $root }}}}
{{- end }}
{{- if include "connector.usesBroker" $service }}
- {name: broker, secret: {secretName: {{ $values.broker.secretName | replace "NAME" $service }}, defaultMode: 0440}}
{{- if $values.broker.caSecret }}
- {name: broker-ca, secret: {secretName: {{ $values.broker.caSecret }}, items: [{key: ca.crt, path: ca.crt}]}}
{{- end }}
{{- end }}
{{- if include "connector.usesState" $service }}
- {name: database, secret: {secretName: {{ $values.state.secretName | replace "NAME" (include "connector.role" .) }}, defaultMode: 0440}}
{{- if $values.state.caSecret }}
- {name: state-ca, secret: {secretName: {{ $values.state.caSecret }}, items: [{key: ca.crt, path: ca.crt}]}}
{{- end }}
{{- end }}
{{- if include "connector.usesSpool" $service }}
{{- if $values.spool.existingClaim }}
- {name: spool, persistentVolumeClaim: {claimName: {{ $values.spool.existingClaim }}}}
{{- else if $values.spool.credentialsSecret }}
- {name: spool, secret: {secretName: {{ $values.spool.credentialsSecret }}, defaultMode: 0440}}
{{- end }}
{{- end }}
{{- if and (eq $service "fetcher") $values.accountsSecret }}
- {name: accounts, secret: {secretName: {{ $values.accountsSecret }}, defaultMode: 0440}}
{{- end }}
{{- if and (eq $service "deliverer") $values.destinationsSecret }}
- {name: destinations, secret: {secretName: {{ $values.destinationsSecret }}, defaultMode: 0440}}
{{- end }}
{{- end -}}
