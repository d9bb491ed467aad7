package eyes

// Columns that several tables have.
const (
	statHead  = ` +MESHED +SUCCESS +RPS +LATENCY_P50 +LATENCY_P95 +LATENCY_P99 +TCP_CONN +TLS$`
	rateCells = ` +\d+\.\d\d% +\d+\.\drps +\d+ms +\d+ms +\d+ms`
	routeHead = ` +SUCCESS +RPS +LATENCY_P50 +LATENCY_P95 +LATENCY_P99`
	routeRate = ` +\d+\.\d\d% +\d+\.\d\d +\d+ms +\d+ms +\d+ms`
	nobodys   = `^No traffic found\.$`
)

// Live are questions about the sample application, in namespace emojivoto and meshed,
// while its bot votes.
func Live() []Question {
	return []Question{
		{Line: `meshctl stat deploy -n emojivoto`, Out: []string{`^NAME` + statHead, `^voting +1/1` + rateCells + ` +\d+ +100%$`, `^web +1/1` + rateCells}},
		{Line: `meshctl stat au -n emojivoto`, Out: []string{`^NAME` + statHead, `^voting-svc\.emojivoto:8080 +-` + rateCells + ` +- +100%$`}},
		{Line: `meshctl stat all -n emojivoto`, Out: []string{`^NAME` + statHead, `^au/voting-svc\.emojivoto:8080 +-` + rateCells, `^deploy/voting +1/1` + rateCells + `(.*\n)+\nNAME .*\n(.*\n)*po/voting-\S+ +Running +1/1` + rateCells, `^svc/voting-svc +-` + rateCells}},
		{Line: `meshctl stat all -n emojivoto -o json`, Out: []string{`"kind": "deployment",\n +"name": "voting"`, `"kind": "pod",\n +"name": "voting-`, `"kind": "service",\n +"name": "voting-svc"`}},
		{Line: `meshctl stat deploy/web -n emojivoto --to svc/voting-svc`, Out: []string{`^web +1/1` + rateCells + ` +\d+ +100%$`}},
		{Line: `meshctl stat deploy -n emojivoto --from deploy/web`, Out: []string{`^emoji +1/1` + rateCells}},
		{Line: `meshctl stat po -n emojivoto -o wide`, Out: []string{`^NAME +STATUS +MESHED .* READ_BYTES/SEC +WRITE_BYTES/SEC +TLS$`, `^voting-\S+ +Running +1/1` + rateCells + ` +\d+( +[\d.]+B/s){2} +100%$`}},
		{Line: `meshctl stat svc -n emojivoto -t 30s`, Out: []string{`^voting-svc +-` + rateCells + ` +- +100%$`}},
		{Line: `meshctl stat ns -o json`, Out: []string{`"name": "emojivoto",\n +"meshed": "4/4",\n +"success": (0\.\d|1)`}},
		{Line: `meshctl stat deploy -A -l app.kubernetes.io/name=voting`, Out: []string{`^NAMESPACE +NAME` + statHead, `^emojivoto +voting +1/1` + rateCells}},
		{Line: `meshctl stat svc/voting-svc deploy/voting -n emojivoto`, Out: []string{`^deploy/voting +1/1` + rateCells + `(.*\n)+\nNAME .*\nsvc/voting-svc +-` + rateCells}},
		{Line: `meshctl stat deploy -n emojivoto --watch --interval 1s`, Lasts: true, Out: []string{`^voting +1/1(.*\n)+\nNAME`}},
		{Line: `meshctl stat-outbound deploy/web -n emojivoto`, Out: []string{`^NAME +SERVICE +ROUTE +TYPE +BACKEND` + routeHead + ` +TIMEOUTS +RETRIES +$`, `^web +voting-svc:8080 +\[default\]` + routeRate + `( +\d+\.\d\d%){2} +\n +└─+► +voting-svc:8080` + routeRate}},
		{Line: `meshctl stat-outbound deploy/web -n emojivoto -o json`, Out: []string{`"service": "voting-svc",\n +"port": "8080",\n +"route": "\[default\]"`}},
		{Line: `meshctl stat-inbound deploy/voting -n emojivoto`, Out: []string{`^NAME +SERVER +ROUTE +TYPE` + routeHead + ` +$`, `^voting +\[default\]:8080 +\[default\]` + routeRate}},
		{Line: `meshctl stat-inbound po -n emojivoto -o json`, Out: []string{`"server": "\[default\]",\n +"port": "8080"`}},
		{Line: `meshctl edges deploy -n emojivoto`, Out: []string{`^SRC +DST +SRC_NS +DST_NS +SECURED$`, `^vote-bot +web +emojivoto +emojivoto +√ +$`, `^web +voting +emojivoto +emojivoto +√ +$`}},
		{Line: `meshctl edges po -A -o wide`, Out: []string{`^web-\S+ +voting-\S+ +emojivoto +emojivoto +web\.emojivoto +voting\.emojivoto +√ +$`}},
		{Line: `meshctl edges deploy -n emojivoto -o json`, Out: []string{`"src": "web",\n +"src_namespace": "emojivoto",\n +"dst": "voting",\n +"dst_namespace": "emojivoto",\n +"client_id": "web\.emojivoto",\n +"server_id": "voting\.emojivoto",\n +"no_tls_reason": ""`}},
		{Line: `meshctl top deploy/web -n emojivoto`, Out: []string{`^Source +Destination +Method +Path +Count +Best +Worst +Last +Success Rate$`, `^vote-bot-\S+ +web-\S+ +GET +/api/\S+ +\d+( +[\d.]+[µm]?s){3} +\d+\.\d\d%$`}},
		{Line: `meshctl top deploy -n emojivoto --for 5s --routes --hide-sources`, Out: []string{`^Destination +Route +Count`, `^voting-\S+ +\[DEFAULT\] +\d+`}},
		{Line: `meshctl top po -n emojivoto --for 5s -o json`, Out: []string{`"path": "/emojivoto\.v1\.EmojiService/\w+",\n +"count": \d`}},
		{Line: `meshctl tap deploy/web -n emojivoto --path /emojivoto.v1.VotingService/VoteDoughnut`, Lasts: true, Out: []string{
			`^req id=\d+:\d+ proxy=out src=\S+ dst=\S+ tls=true :method=POST :authority=\S+ :path=/emojivoto\.v1\.VotingService/VoteDoughnut$`,
			`^rsp id=\d+:\d+ proxy=out src=\S+ dst=\S+ tls=true :status=200 latency=\d+µs$`,
			`^end id=\d+:\d+ proxy=out src=\S+ dst=\S+ tls=true grpc-status=\w+ duration=\d+µs response-length=\d+B$`,
		}},
		{Line: `meshctl tap deploy/web deploy/voting -n emojivoto --method GET -o wide`, Lasts: true, Out: []string{`^req .* proxy=in  .* src_deployment=vote-bot .* dst_deployment=web .* rt_`}},
		{Line: `meshctl tap ns/emojivoto --to svc/voting-svc --to-namespace emojivoto -o json`, Lasts: true, Out: []string{`^\{"source":\{"ip":.*"proxyDirection":"OUTBOUND".*"requestInitEvent":\{.*"headers":\[`}},
		{Line: `meshctl tap deploy/web -n emojivoto -o jsonpath='{.requestInitEvent.path}'`, Lasts: true, Out: []string{`^/\S+$`}},
		{Line: `meshctl list -n emojivoto`, Out: []string{`^Pods with tap enabled:\n(\t\* emojivoto/\S+\n){4}`}},
		{Line: `meshctl list -A -o json`, Out: []string{`"tap": "enabled"`}},
		{Line: `meshctl why deploy/web voting-svc:8080 -n emojivoto`, Out: []string{`^√ identity +mTLS: `, `^A connection from deployment emojivoto/web to Service emojivoto/voting-svc port 8080 would work\.$`}},
		{Line: `meshctl why deploy/web nobody -n emojivoto`, Exit: 1, Out: []string{`^× name `, `would fail\.$`}},
		{Line: `meshctl why deploy/web svc/voting-svc --port 8080 -n emojivoto -o json`, Out: []string{`"verdict": "works"`}},
		{Line: `meshctl endpoints web-svc.emojivoto:80`, Out: []string{`^NAMESPACE +IP +PORT +POD +SERVICE +READY +IDENTITY$`, `^emojivoto +\S+ +8080 +web-\S+ +web-svc\.emojivoto +yes +spiffe://cluster\.local/ns/emojivoto/sa/web$`}},
		{Line: `meshctl diagnostics endpoints web-svc.emojivoto:80 -o json`, Out: []string{`"pod": "web-`, `"http2": true`, `"identity": "spiffe://`}},
		{Line: `meshctl diagnostics policy svc/voting-svc 8080 -n emojivoto`, Out: []string{`voting-svc`}},
		{Line: `meshctl diagnostics policy ` + onePod + ` 8080 -n emojivoto -o json`, Out: []string{`"default": "`}},
		{Line: `meshctl diagnostics connections ` + onePod + ` -n emojivoto`, Out: []string{`^DIRECTION +PROTOCOL +PEER +REMOTE +SECURED +AGE +RTT +RETRANSMITS +READ +WRITTEN$`, `^inbound +http/2 +emojivoto/web-\S+ +\S+ +√ +[\d.]+\w+ +[\d.]+[µm]?s `}},
		{Line: `meshctl diagnostics connections ` + onePod + ` -n emojivoto -o json`, Out: []string{`"direction": "inbound",\n +"protocol": "http/2"`}},
		{Line: `meshctl diagnostics proxy-metrics deploy/web -n emojivoto`, Out: []string{`^#\n# POD web-\S+ \(1 of 1\)\n#\n`, `^response_total\{`}},
		{Line: `meshctl diagnostics proxy-metrics deploy/web -n emojivoto --obfuscate`, Out: []string{`^response_total\{.*authority="[0-9a-f]{8}"`}},
		{Line: `meshctl diagnostics controller-metrics`, Out: []string{`^#\n# POD mesh-control\S* \(1 of \d\)\n# CONTAINER mesh-control \n#\n`, `^identity_certificates_issued_total [1-9]`}},
		{Line: `meshctl identity -n emojivoto -l app=web`, Out: []string{`^POD web-\S+ \(1 of 1\)\n\nCertificate:$`, `URI:spiffe://cluster\.local/ns/emojivoto/sa/web$`}},
		{Line: `meshctl identity -n emojivoto -o json`, Out: []string{`"identity":"spiffe://cluster\.local/ns/emojivoto/sa/voting"`}},
		{Line: `meshctl version --proxy -n emojivoto`, Out: []string{`^Client version: (\S+)\nServer version: \S+\nProxy versions:\n\t\S+ \(4 pods\)$`}},
		{Line: `meshctl tap ` + onePod + ` -n emojivoto --pcap -`, Lasts: true, Out: []string{`\n\r\r\n`, `emojivoto/voting-`, `\x06\x00\x00\x00`}, Err: `^[1-9]\d* packets captured, \d+ missing$`},
	}
}

// onePod is the pod of voting, as a shell finds it.
const onePod = `po/$(meshctl list -n emojivoto | grep -o 'voting-\S*')`

// Cluster are questions of the same that a cluster alone is asked.
func Cluster() []Question {
	return []Question{
		{Line: `meshctl check --proxy -n emojivoto`, Out: []string{`^Status check results are √$`}, Err: `.*`},
	}
}

// Local is a question of a mesh on one machine, whether pods are meshed or not.
func Local() []Question {
	return []Question{
		{Line: `meshctl check --local`, Out: []string{`^√ what sidecars count is kept$`, `^Status check results are √$`}, Err: `.*`},
		{Line: `meshctl check --local -o json`, Out: []string{`"success": ?true`}, Err: `.*`},
	}
}

// Empty are questions of a mesh without meshed pods, where namespace default has a
// pod named outsider.
func Empty() []Question {
	return []Question{
		{Line: `meshctl stat deploy`, Err: nobodys},
		{Line: `meshctl stat au -A`, Err: nobodys},
		{Line: `meshctl stat sts -o json`, Out: []string{`^\[\]$`}},
		{Line: `meshctl stat cj`, Err: nobodys},
		{Line: `meshctl stat all -n nowhere`, Err: nobodys},
		{Line: `meshctl stat all -n nowhere -o json`, Out: []string{`^\[\]$`}},
		{Line: `meshctl stat all --unmeshed`, Out: []string{`^NAME +STATUS` + statHead, `^po/outsider +Running +0/1( +-){7}$`}},
		{Line: `meshctl stat po --unmeshed`, Out: []string{`^NAME +STATUS` + statHead, `^outsider +Running +0/1( +-){7}$`}},
		{Line: `meshctl stat-inbound deploy`, Err: nobodys},
		{Line: `meshctl stat-outbound po`, Err: nobodys},
		{Line: `meshctl stat-outbound po -o json`, Out: []string{`^\[\]$`}},
		{Line: `meshctl edges deploy`, Err: `^No edges found\.$`},
		{Line: `meshctl edges po -A -o json`, Out: []string{`^\[\]$`}},
		{Line: `meshctl edges cj`, Err: `^No edges found\.$`},
		{Line: `meshctl top po --for 1s`, Exit: 1, Err: `^meshctl: .* is meshed$`},
		{Line: `meshctl tap po/outsider`, Exit: 1, Err: `^meshctl: .* is meshed$`},
		{Line: `meshctl list`, Out: []string{`^No meshed pods found$`}},
		{Line: `meshctl list -o json`, Out: []string{`^\[\]$`}},
		{Line: `meshctl endpoints nobody.default:80`, Exit: 1, Err: `^meshctl: .*nobody`},
		{Line: `meshctl why po/outsider nobody:80`, Exit: 1, Out: []string{`would fail\.$`}},
		{Line: `meshctl identity`, Exit: 1, Err: `^meshctl: no pod in default has a sidecar$`},
		{Line: `meshctl version --proxy -n default`, Out: []string{`^Server version: \S+\nProxy versions:$`}},
		{Line: `meshctl diagnostics endpoints nobody.default:80`, Exit: 1, Err: `^meshctl: .*nobody`},
		{Line: `meshctl diagnostics policy po/outsider 8080`, Exit: 1, Err: `^meshctl: pod default/outsider has no sidecar`},
		{Line: `meshctl diagnostics connections po/outsider`, Exit: 1, Err: `^meshctl: .*has no sidecar`},
		{Line: `meshctl diagnostics proxy-metrics po/outsider`, Exit: 1, Err: `^meshctl: no pod to ask: none runs, or none has a sidecar$`},
		{Line: `meshctl diagnostics controller-metrics`, Out: []string{`^# POD mesh-control\S* \(1 of \d\)$`, `^tap_proxies 0$`}},
	}
}

// Wrong are questions that nothing answers, of the sample.
func Wrong() []Question {
	return []Question{
		{Line: `meshctl stat`, Exit: 2, Err: `^meshctl: `},
		{Line: `meshctl stat cow`, Exit: 2, Err: `^meshctl: unknown resource type "cow"`},
		{Line: `meshctl stat all/web -n emojivoto`, Exit: 2, Err: `^meshctl: "all" is for stat, alone and without a name$`},
		{Line: `meshctl stat cj/nobody -n emojivoto`, Exit: 1, Err: `^meshctl: .*there is no \w+ "nobody" in namespace emojivoto`},
		{Line: `meshctl stat deploy/nobody -n emojivoto`, Exit: 1, Err: `^meshctl: .*there is no \w+ "nobody" in namespace emojivoto`},
		{Line: `meshctl stat deploy -n emojivoto --to svc/nobody`, Exit: 1, Err: `^meshctl: .*there is no \w+ "nobody" in namespace emojivoto`},
		{Line: `meshctl stat deploy -n emojivoto -l 'a in'`, Exit: 1, Err: `^meshctl: .*label selector`},
		{Line: `meshctl stat-inbound deploy/nobody -n emojivoto`, Exit: 1, Err: `^meshctl: .*there is no \w+ "nobody" in namespace emojivoto`},
		{Line: `meshctl stat-outbound svc -n emojivoto`, Exit: 2, Err: `^meshctl: a service has no sidecar`},
		{Line: `meshctl edges deploy/nobody -n emojivoto`, Exit: 1, Err: `^meshctl: .*there is no \w+ "nobody" in namespace emojivoto`},
		{Line: `meshctl edges all -n emojivoto`, Exit: 2, Err: `^meshctl: "all" is for stat, alone and without a name$`},
		{Line: `meshctl edges svc -n emojivoto`, Exit: 2, Err: `^meshctl: a service is no end of a connection`},
		{Line: `meshctl top deploy/nobody -n emojivoto`, Exit: 1, Err: `^meshctl: .*there is no \w+ "nobody" in namespace emojivoto`},
		{Line: `meshctl top cj/nobody -n emojivoto`, Exit: 1, Err: `^meshctl: .*there is no \w+ "nobody" in namespace emojivoto`},
		{Line: `meshctl top deploy -o yaml`, Exit: 2, Err: `^meshctl: --output "yaml"`},
		{Line: `meshctl tap deploy/nobody -n emojivoto`, Exit: 1, Err: `^meshctl: .*there is no \w+ "nobody" in namespace emojivoto`},
		{Line: `meshctl tap deploy/web -n emojivoto --path api`, Exit: 2, Err: `^meshctl: --path "api": a path begins with /`},
		{Line: `meshctl list deploy`, Exit: 2, Err: `^meshctl: `},
		{Line: `meshctl list -n emojivoto -l 'a in'`, Exit: 1, Err: `^meshctl: .*label selector`},
		{Line: `meshctl endpoints web-svc.emojivoto`, Exit: 2, Err: `^meshctl: `},
		{Line: `meshctl endpoints web-svc.emojivoto:81`, Exit: 1, Err: `^meshctl: .*81`},
		{Line: `meshctl diagnostics nonsense`, Exit: 2, Err: `^meshctl: `},
		{Line: `meshctl diagnostics policy po/nobody 80 -n emojivoto`, Exit: 1, Err: `^meshctl: there is no pod emojivoto/nobody`},
		{Line: `meshctl why deploy/nobody web-svc:80 -n emojivoto`, Exit: 1, Err: `^meshctl: .*there is no \w+ "nobody" in namespace emojivoto`},
		{Line: `meshctl why deploy/web`, Exit: 2, Err: `^meshctl: `},
		{Line: `meshctl dashboard --show nonsense`, Exit: 2, Err: `^meshctl: --show "nonsense"`},
		{Line: `meshctl check --proxy --pre`, Exit: 2, Err: `^meshctl: `},
		{Line: `meshctl identity nobody -n emojivoto`, Exit: 1, Err: `^meshctl: .*nobody`},
		{Line: `meshctl identity nobody -l app=web -n emojivoto`, Exit: 2, Err: `^meshctl: name pods or select them by labels, not both$`},
		{Line: `meshctl version --client --proxy`, Exit: 2, Err: `^meshctl: --client asks no cluster, and --proxy does$`},
		{Line: `meshctl diagnostics endpoints web-svc.emojivoto:81`, Exit: 1, Err: `^meshctl: .*81`},
		{Line: `meshctl diagnostics policy deploy/web 80 -n emojivoto`, Exit: 2, Err: `^meshctl: "deploy/web": want po/NAME or svc/NAME$`},
		{Line: `meshctl diagnostics connections po/nobody -n emojivoto`, Exit: 1, Err: `^meshctl: there is no pod "nobody" in namespace emojivoto`},
		{Line: `meshctl diagnostics connections deploy/web -n emojivoto`, Exit: 2, Err: `^meshctl: "deploy/web": name one pod, as po/NAME$`},
		{Line: `meshctl diagnostics proxy-metrics deploy/nobody -n emojivoto`, Exit: 1, Err: `^meshctl: find deploy/nobody: `},
		{Line: `meshctl diagnostics proxy-metrics svc/web-svc -n emojivoto`, Exit: 2, Err: `^meshctl: svc/web-svc: want po, deploy, sts or ds$`},
		{Line: `meshctl diagnostics controller-metrics mesh-control`, Exit: 2, Err: `^meshctl: `},
		{Line: `meshctl tap deploy/web -n emojivoto --pcap -`, Exit: 2, Err: `^meshctl: .*name one pod`},
	}
}
