package deploy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
)

// Where the schemas of what a cluster takes come from. Built-in kinds: the oldest Kubernetes that the chart names, because
// a newer one takes what an older one took. Nobody's code runs; only files are read.
const (
	builtins       = "sigs.k8s.io/kubectl-validate@v0.0.4"
	oldest         = "1.30"
	kedaModule     = "github.com/kedacore/keda/v2@v2.21.0"
	operatorModule = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
)

func chartDir(t *testing.T) string { return filepath.Join(root(t), "deploy", "helm", "stockbridge") }

func loaded(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.LoadDir(chartDir(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// valueSets are the sets that the chart ships.
func valueSets(t *testing.T) map[string]map[string]any {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(chartDir(t), "ci", "*-values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	sets := map[string]map[string]any{}
	for _, file := range files {
		v, err := chartutil.ReadValuesFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sets[strings.TrimSuffix(filepath.Base(file), "-values.yaml")] = v
	}
	if got := slices.Sorted(maps.Keys(sets)); !slices.Equal(got, []string{"minimal", "production", "trial"}) {
		t.Fatalf("value sets: %v", got)
	}
	return sets
}

type object = map[string]any

// rendered is what helm template writes, by the files of the chart.
func rendered(t *testing.T, values map[string]any) (map[string]string, error) {
	t.Helper()
	c := loaded(t)
	options := chartutil.ReleaseOptions{Name: "shop", Namespace: "orders", Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(c, values, options, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	return engine.Render(c, all)
}

// render is helm template.
func render(t *testing.T, values map[string]any) ([]object, error) {
	t.Helper()
	files, err := rendered(t, values)
	if err != nil {
		return nil, err
	}
	var objects []object
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, "NOTES.txt") {
			if strings.TrimSpace(files[name]) == "" {
				t.Error("no notes")
			}
			continue
		}
		for d := yaml.NewDecoder(strings.NewReader(files[name])); ; {
			var o object
			err := d.Decode(&o)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w\n%s", name, err, files[name])
			}
			if len(o) > 0 {
				objects = append(objects, o)
			}
		}
	}
	return objects, nil
}

// merged is what values become over the chart's own.
func merged(t *testing.T, values map[string]any) map[string]any {
	t.Helper()
	all, err := chartutil.CoalesceValues(loaded(t), values)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestChart(t *testing.T) {
	schemas := newSchemas(t)
	for name, values := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			for _, m := range lint.AllWithKubeVersion(chartDir(t), values, "orders", nil).Messages {
				if m.Severity > support.InfoSev { // --strict
					t.Errorf("lint: %v", m)
				}
			}
			objects, err := render(t, values)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for _, o := range objects {
				id := fmt.Sprint(o["kind"], "/", at(o, "metadata", "name"))
				if seen[id] {
					t.Errorf("%s twice", id)
				}
				seen[id] = true
				if err := schemas.check(o); err != nil {
					t.Errorf("%s: %v", id, err)
				}
				if spec := podOf(o); spec != nil {
					shutPod(t, id, spec)
					knownEnv(t, id, spec)
				}
			}
			all := merged(t, values)
			for _, w := range workers(t) {
				settings, ok := at(all, "workers", w).(map[string]any)
				if !ok {
					t.Errorf("no block for %s in values.yaml", w)
					continue
				}
				workerObjects(t, w, objects, all, settings)
			}
			for w := range at(all, "workers").(map[string]any) {
				if !slices.Contains(workers(t), w) {
					t.Errorf("values.yaml runs %s, which is no service", w)
				}
			}
		})
	}
}

// workerObjects: what each worker needs of a cluster.
func workerObjects(t *testing.T, name string, objects []object, all, values map[string]any) {
	t.Helper()
	deployment := find(objects, "Deployment", "shop-stockbridge-"+name)
	if deployment == nil || find(objects, "PodDisruptionBudget", "shop-stockbridge-"+name) == nil {
		t.Fatalf("%s: no deployment, or no disruption budget", name)
	}
	keda := at(all, "keda", "enabled") == true
	if has := at(deployment, "spec", "replicas") != nil; has == keda {
		t.Errorf("%s: replicas are KEDA's or the deployment's, not both's: %v", name, at(deployment, "spec", "replicas"))
	}
	pod := podOf(deployment)
	container := at(pod, "containers", 0)
	env := envOf(container)
	if want := fmt.Sprint(at(all, "grace"), "s"); env["GRACE"] != want {
		t.Errorf("%s: GRACE %s, want %s", name, env["GRACE"], want)
	}
	if limit := number(at(pod, "terminationGracePeriodSeconds")); limit <= number(at(all, "grace"))+closing.Seconds() {
		t.Errorf("%s: killed after %v s, its grace is %v", name, limit, at(all, "grace"))
	}
	for probe, path := range map[string]string{"livenessProbe": "/healthz", "readinessProbe": "/readyz"} {
		if at(container, probe, "httpGet", "path") != path || number(at(container, probe, "timeoutSeconds")) < 4 {
			t.Errorf("%s: %s %v", name, probe, at(container, probe))
		}
	}
	scaled := find(objects, "ScaledObject", "shop-stockbridge-"+name)
	if keda != (scaled != nil) {
		t.Fatalf("%s: KEDA is %v, its object %v", name, keda, scaled)
	}
	if scaled == nil {
		return
	}
	if at(scaled, "spec", "scaleTargetRef", "name") != at(deployment, "metadata", "name") {
		t.Errorf("%s: KEDA scales %v", name, at(scaled, "spec", "scaleTargetRef"))
	}
	if number(at(scaled, "spec", "fallback", "replicas")) != number(at(values, "replicas")) {
		t.Errorf("%s: falls back to %v", name, at(scaled, "spec", "fallback"))
	}
}

// shutPod: a pod may nothing, keeps nothing, and says what it needs.
func shutPod(t *testing.T, id string, pod object) {
	t.Helper()
	if pod["automountServiceAccountToken"] != false {
		t.Errorf("%s: it gets a token of the cluster", id)
	}
	if at(pod, "securityContext", "runAsNonRoot") != true || at(pod, "securityContext", "seccompProfile", "type") != "RuntimeDefault" {
		t.Errorf("%s: %v", id, pod["securityContext"])
	}
	for _, c := range pod["containers"].([]any) {
		s := at(c, "securityContext")
		if at(s, "readOnlyRootFilesystem") != true || at(s, "allowPrivilegeEscalation") != false || fmt.Sprint(at(s, "capabilities", "drop")) != "[ALL]" {
			t.Errorf("%s: %v", id, s)
		}
		if at(c, "resources", "requests", "memory") == nil || at(c, "resources", "limits", "memory") == nil {
			t.Errorf("%s: resources %v", id, at(c, "resources"))
		}
	}
}

// hidden are settings that bridgectl accepts, and describes in the help of those commands that need them.
var hidden = []string{"TOKEN_KEY_FILE", "SELLER_SECRETS_DIR", "SELLER_SECRETS_ENV", "SELLER_HTTP_HOSTS"}

// ofGo are variables that Go's own library reads.
var ofGo = []string{"SSL_CERT_DIR"}

func knownEnv(t *testing.T, id string, pod object) {
	t.Helper()
	for _, c := range pod["containers"].([]any) {
		image := fmt.Sprint(at(c, "image"))
		service := strings.Split(image[strings.LastIndex(image, "/")+1:], ":")[0]
		if !slices.Contains(services(t), service) {
			if len(envOf(c)) > 0 {
				t.Errorf("%s: settings for %s", id, service)
			}
			continue
		}
		known := slices.Concat(settings(t, service), ofGo, sellersSecrets)
		if service == "bridgectl" {
			known = append(known, hidden...)
		}
		for key, value := range envOf(c) {
			if !slices.Contains(known, key) {
				t.Errorf("%s: %s is no setting of %s", id, key, service)
			}
			if strings.Contains(key, "_URL") && strings.Contains(value, "@") || slices.Contains(sellersSecrets, key) && !strings.HasPrefix(value, "sandbox-") {
				t.Errorf("%s: %s is a secret in the manifest", id, key)
			}
		}
	}
}

// The schemas find what they are there for.
func TestTheSchemasRefuse(t *testing.T) {
	schemas := newSchemas(t)
	for _, row := range []struct {
		name, kind, want string
		harm             func(o object)
	}{
		{"a misspelt field", "Deployment", "readynessProbe", func(o object) {
			at(podOf(o), "containers", 0).(object)["readynessProbe"] = object{}
		}},
		{"a text for a number", "Deployment", "/spec/template/spec/terminationGracePeriodSeconds", func(o object) {
			podOf(o)["terminationGracePeriodSeconds"] = "60s"
		}},
		{"a version that is gone", "PodDisruptionBudget", "no cluster knows", func(o object) { o["apiVersion"] = "policy/v1beta1" }},
		{"a misspelt field of KEDA's", "ScaledObject", "maxReplicas", func(o object) { at(o, "spec").(object)["maxReplicas"] = 3 }},
		{"a trigger without a type", "ScaledObject", "type", func(o object) { delete(at(o, "spec", "triggers", 0).(object), "type") }},
		{"a misspelt field of the operator's", "PodMonitor", "every", func(o object) {
			at(o, "spec", "podMetricsEndpoints", 0).(object)["every"] = "15s"
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			objects, err := render(t, valueSets(t)["production"])
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(objects, func(o object) bool { return o["kind"] == row.kind })
			row.harm(objects[i])
			if err := schemas.check(objects[i]); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("%q is not in: %v", row.want, err)
			}
		})
	}
}

// What KEDA asks Prometheus: the backlog, capped by what the quota leaves, over all replicas.
func TestScaling(t *testing.T) {
	objects, err := render(t, valueSets(t)["production"])
	if err != nil {
		t.Fatal(err)
	}
	trigger := at(find(objects, "ScaledObject", "shop-stockbridge-order-pusher"), "spec", "triggers", 0, "metadata")
	if got := at(trigger, "threshold"); got != "1440" { // 24 a second, 60 s
		t.Errorf("one replica does %v in the horizon", got)
	}
	if at(trigger, "ignoreNullValues") != "false" {
		t.Error("a Prometheus that knows nothing passes for no backlog")
	}
	backlog := func(consumer, pod string, n int) object {
		return object{"series": fmt.Sprintf("stockbridge_consumer_runnable{consumer=%q,service=%[1]q,pod=%q}", consumer, pod), "values": fmt.Sprintf("%dx10", n)}
	}
	budget := func(application, pod string, perSecond int) object {
		return object{
			"series": fmt.Sprintf(`stockbridge_quota_budget_calls_per_second{application=%q,pod=%q}`, application, pod),
			"values": fmt.Sprintf("%dx10", perSecond),
		}
	}
	concurrent := func(application string, n int) object {
		return object{
			"series": fmt.Sprintf(`stockbridge_quota_budget_concurrent_calls{application=%q,pod="a"}`, application), "values": fmt.Sprintf("%dx10", n),
		}
	}
	calls := func(class string, perSecond float64) object {
		return object{
			"series": fmt.Sprintf(`stockbridge_quota_calls_total{class=%q,pod="a"}`, class),
			"values": fmt.Sprintf("0+%gx10", 60*perSecond), // a minute between two samples
		}
	}
	take := func(class string, perSecond, each float64) []any { // calls of the class, and the seconds of each
		series := func(part string, rate float64) object {
			return object{
				"series": fmt.Sprintf(`stockbridge_warehouse_call_seconds_%s{method="order.addOrder",class=%q,outcome="ok",pod="a"}`, part, class),
				"values": fmt.Sprintf("0+%gx10", 60*rate),
			}
		}
		return []any{series("count", perSecond), series("sum", perSecond*each)}
	}
	with := func(some ...any) (all []any) {
		for _, s := range some {
			if list, ok := s.([]any); ok {
				all = append(all, list...)
			} else {
				all = append(all, s)
			}
		}
		return all
	}
	is := func(value float64) []any { return []any{object{"labels": "{}", "value": value}} }
	waiting := backlog("order-pusher", "a", 5000)
	var tests []any
	for _, row := range []struct {
		name   string
		series []any
		want   []any
	}{
		{"the backlog, counted once however many show it", []any{waiting, backlog("order-pusher", "b", 5000), backlog("status-poller", "c", 70000)}, is(5000)},
		{"a quota that leaves more than waits", []any{waiting, budget("acme", "a", 200)}, is(5000)},
		{"a quota that leaves less: 5 + 15 calls a second", []any{waiting, budget("acme", "a", 5), budget("acme", "b", 5), budget("bolt", "a", 15)}, is(1200)},
		{"other classes take 2 of 20 calls a second", []any{waiting, budget("acme", "a", 20), calls("status", 2), calls("push", 10)}, is(1080)},
		{"other classes take all", []any{waiting, budget("acme", "a", 1), calls("cancel", 10)}, is(0)},
		// As measured on a control plane: sellers of one application, 2000 calls a second, and 100 at a time at a JD of 1 s.
		{"eight sellers of one application have one budget", []any{backlog("order-pusher", "a", 200000), budget("app-1", "a", 2000), budget("app-1", "b", 2000)}, is(120000)},
		{"100 calls at a time, each takes 1 s", with(backlog("order-pusher", "a", 10174), budget("app-1", "a", 500), concurrent("app-1", 100), take("push", 90, 1)), is(6000)},
		{"the same, each takes 0.3 s", with(backlog("order-pusher", "a", 90000), budget("app-1", "a", 300), concurrent("app-1", 100), take("push", 90, .3)), is(18000)},
		{"other classes' calls are slow", with(waiting, budget("app-1", "a", 500), concurrent("app-1", 100), take("push", 5, .1), take("status", 1, 10)), is(5000)},
		{"nothing was sent yet", with(waiting, budget("app-1", "a", 50), concurrent("app-1", 1), take("push", 0, 1)), is(3000)},
		{
			"one application by its calls at a time, another by its calls a second",
			with(waiting, budget("app-1", "a", 500), concurrent("app-1", 10), budget("app-2", "a", 5), concurrent("app-2", 100), take("push", 5, 1)), is(900),
		},
		{
			"nine sellers of one application with 5 calls a second, some of them for the status",
			with(backlog("order-pusher", "a", 3653), budget("app-1", "a", 5), concurrent("app-1", 5), take("push", 4, .3), calls("push", 4), calls("status", .75)), is(255),
		},
		{
			"a worker of the build before still counts by seller",
			[]any{waiting, budget("app-1", "a", 5), object{"series": `stockbridge_quota_budget_calls_per_second{seller="acme",account="jd",pod="b"}`, "values": "900x10"}}, is(300),
		},
		{"nothing is known of the backlog", []any{budget("acme", "a", 5)}, []any{}},
	} {
		tests = append(tests, object{
			"name": row.name, "interval": "1m", "input_series": row.series,
			"promql_expr_test": []any{object{"expr": at(trigger, "query"), "eval_time": "10m", "exp_samples": row.want}},
		})
	}
	text, err := yaml.Marshal(object{"tests": tests})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "scaling.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(filepath.Join(root(t), "bin", "promtool"), "test", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("promtool (make chart puts it there): %v\n%s", err, out)
	}
}

// Topology comes before the workers that check it, and its job can be run again.
func TestTopologyComesFirst(t *testing.T) {
	sets := valueSets(t)
	objects, err := render(t, sets["production"])
	if err != nil {
		t.Fatal(err)
	}
	job := find(objects, "Job", "shop-stockbridge-topology")
	if job == nil {
		t.Fatal("no job")
	}
	notes := at(job, "metadata", "annotations").(map[string]any)
	for _, event := range []string{"pre-install", "pre-upgrade", "pre-rollback"} {
		if !strings.Contains(fmt.Sprint(notes["helm.sh/hook"]), event) {
			t.Errorf("it does not run at %s", event)
		}
	}
	if !strings.Contains(fmt.Sprint(notes["helm.sh/hook-delete-policy"]), "before-hook-creation") {
		t.Error("a job that is left over stops the next upgrade")
	}
	if args := fmt.Sprint(at(podOf(job), "containers", 0, "args")); args != "[topology apply --replicas=3 --keep=2160h]" {
		t.Errorf("args %s", args)
	}
	// The release's own objects are not there yet when the hook runs.
	if at(podOf(job), "serviceAccountName") != nil {
		t.Error("it needs an account")
	}

	// NATS in the same release is not there yet either: no hook, and another name each time, because jobs cannot change.
	objects, err = render(t, sets["trial"])
	if err != nil {
		t.Fatal(err)
	}
	job = find(objects, "Job", "shop-stockbridge-topology-1")
	if job == nil || at(job, "metadata", "annotations") != nil {
		t.Fatalf("with NATS in the release: %v", job)
	}
	// That may take as long as its image and its volume do: nobody would try again after a deadline.
	if args := fmt.Sprint(at(podOf(job), "containers", 0, "args")); at(job, "spec", "activeDeadlineSeconds") != nil || !strings.HasSuffix(args, " --wait]") {
		t.Errorf("it gives up: deadline %v, args %s", at(job, "spec", "activeDeadlineSeconds"), args)
	}
}

func TestTheChartRefuses(t *testing.T) {
	with := func(path string, value any) map[string]any {
		values, err := chartutil.ReadValues([]byte(`nats: {url: "nats://n:4222"}`))
		if err != nil {
			t.Fatal(err)
		}
		var here map[string]any = values
		keys := strings.Split(path, "/")
		for _, k := range keys[:len(keys)-1] {
			if _, ok := here[k]; !ok {
				here[k] = map[string]any{}
			}
			here = here[k].(map[string]any)
		}
		here[keys[len(keys)-1]] = value
		return values
	}
	for _, row := range []struct {
		name   string
		values map[string]any
		want   []string
	}{
		{"a misspelt value", with("graze", 60), []string{"graze"}},
		{"a misspelt value further down", with("topology/replica", 3), []string{"topology", "replica"}},
		{"a misspelt worker", with("workers/order-pushr", map[string]any{"replicas": 3}), []string{"order-pushr", "resources"}},
		{"no replicas", with("workers/order-pusher/replicas", 0), []string{"workers/order-pusher/replicas", "minimum: got 0, want 1"}},
		{"a grace below what a handler may take", with("grace", 20), []string{"grace", "minimum: got 20, want 30"}},
		{"no time to close", with("closing", 5), []string{"closing", "minimum: got 5, want 12"}},
		{"two copies", with("topology/replicas", 2), []string{"topology/replicas", "1", "3", "5"}},
		{"a password in the values", with("redis/url", "redis://:secret@redis:6379/0"), []string{"redis/url"}},
		{"a password in the values, for NATS", with("nats/url", "nats://a:b@n:4222"), []string{"nats/url"}},
		{"a setting that the chart makes itself", with("settings/GRACE", "10s"), []string{"settings: GRACE is made by the chart; set grace"}},
		{"KEDA without Prometheus", with("keda/enabled", true), []string{"keda/serverAddress"}},
		{"no broker", map[string]any{}, []string{"nats.url", "请设置"}},
		{"more at least than at most", map[string]any{
			"nats": map[string]any{"url": "nats://n:4222"}, "keda": map[string]any{"enabled": true, "serverAddress": "http://p"},
			"workers": map[string]any{"order-pusher": map[string]any{"scaling": map[string]any{"min": 9}}},
		}, []string{"workers.order-pusher.scaling", "max (4) is below min (9)"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := render(t, row.values)
			if err == nil {
				t.Fatal("it is taken")
			}
			for _, want := range row.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
		})
	}
}

// schemas knows the kinds that a cluster takes.
type schemas struct {
	compiler *jsonschema.Compiler
	// of is the address of a kind's schema, by "apiVersion kind".
	of map[string]string
}

func newSchemas(t *testing.T) *schemas {
	t.Helper()
	s := &schemas{compiler: jsonschema.NewCompiler(), of: map[string]string{}}
	folder := filepath.Join(module(t, builtins), "pkg", "openapiclient", "builtins", oldest)
	if err := filepath.WalkDir(folder, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		below, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var doc any
		if err := json.Unmarshal(data, &doc); err != nil {
			return err
		}
		address := "builtin:///" + below
		for name, schema := range at(doc, "components", "schemas").(map[string]any) {
			kinds, _ := at(schema, "x-kubernetes-group-version-kind").([]any)
			if len(kinds) != 1 {
				continue
			}
			version := fmt.Sprint(at(kinds[0], "version"))
			if group := at(kinds[0], "group"); group != "" {
				version = fmt.Sprint(group, "/", version)
			}
			s.of[version+" "+fmt.Sprint(at(kinds[0], "kind"))] = address + "#/components/schemas/" + name
		}
		return s.compiler.AddResource(address, strict(doc))
	}); err != nil {
		t.Fatal(err)
	}
	s.addCRD(t, filepath.Join(module(t, kedaModule), "config", "crd", "bases", "keda.sh_scaledobjects.yaml"))
	s.addCRD(t, filepath.Join(module(t, operatorModule), "example", "prometheus-operator-crd", "monitoring.coreos.com_podmonitors.yaml"))
	s.addCRD(t, filepath.Join(module(t, operatorModule), "example", "prometheus-operator-crd", "monitoring.coreos.com_prometheusrules.yaml"))
	return s
}

func (s *schemas) addCRD(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var crd object
	if err := yaml.Unmarshal(data, &crd); err != nil {
		t.Fatal(err)
	}
	for _, v := range at(crd, "spec", "versions").([]any) {
		kind := fmt.Sprint(at(crd, "spec", "group"), "/", at(v, "name"), " ", at(crd, "spec", "names", "kind"))
		schema := at(v, "schema", "openAPIV3Schema").(object)
		// Every object has these, whatever the definition says of them.
		delete(schema["properties"].(object), "metadata")
		schema["properties"].(object)["metadata"] = object{"type": "object"}
		s.of[kind] = "crd:///" + strings.ReplaceAll(kind, " ", "/")
		if err := s.compiler.AddResource(s.of[kind], strict(plain(schema))); err != nil {
			t.Fatal(err)
		}
	}
}

// check is what `kubectl apply --validate=strict` would say.
func (s *schemas) check(o object) error {
	kind := fmt.Sprint(o["apiVersion"], " ", o["kind"])
	address, ok := s.of[kind]
	if !ok {
		return fmt.Errorf("no cluster knows %s", kind)
	}
	schema, err := s.compiler.Compile(address)
	if err != nil {
		return err
	}
	return schema.Validate(plain(o))
}

// plain is v as a JSON reader would give it.
func plain(v any) any {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // it came from YAML with text keys
	}
	out, err := jsonschema.UnmarshalJSON(strings.NewReader(string(data)))
	if err != nil {
		panic(err)
	}
	return out
}

// strict makes Kubernetes' schemas say what an API server does besides: unknown fields are refused, numbers may stand for
// texts where x-kubernetes-int-or-string says so, null is no value.
func strict(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if v["x-kubernetes-int-or-string"] == true || v["format"] == "int-or-string" {
			return map[string]any{"type": []any{"integer", "string"}}
		}
		if v["x-kubernetes-preserve-unknown-fields"] == true {
			return map[string]any{}
		}
		out := map[string]any{}
		for key, value := range v {
			if key == "properties" {
				properties := map[string]any{}
				for name, p := range value.(map[string]any) {
					properties[name] = strict(p)
				}
				out[key] = properties
				continue
			}
			out[key] = strict(value)
		}
		_, open := v["additionalProperties"]
		if _, ok := v["properties"].(map[string]any); ok && !open && v["type"] == "object" {
			out["additionalProperties"] = false
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = strict(v[i])
		}
		return out
	}
	return v
}

// module puts a module into the local cache and returns where it is. Its checksum is looked up by the go command.
func module(t *testing.T, name string) string {
	t.Helper()
	c := exec.Command("go", "mod", "download", "-json", name)
	c.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
	c.Dir = t.TempDir()
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go mod download %s: %v\n%s", name, err, out)
	}
	var found struct{ Dir string }
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatal(err)
	}
	return found.Dir
}

func podOf(o object) object {
	if pod, ok := at(o, "spec", "template", "spec").(map[string]any); ok {
		return pod
	}
	return nil
}

func envOf(container any) map[string]string {
	env := map[string]string{}
	list, _ := at(container, "env").([]any)
	for _, e := range list {
		value, _ := at(e, "value").(string)
		env[at(e, "name").(string)] = value
	}
	return env
}

func find(objects []object, kind, name string) object {
	for _, o := range objects {
		if o["kind"] == kind && at(o, "metadata", "name") == name {
			return o
		}
	}
	return nil
}

// at follows keys and positions; nil when there is nothing.
func at(v any, path ...any) any {
	for _, step := range path {
		switch key := step.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok {
				return nil
			}
			v = m[key]
		case int:
			list, ok := v.([]any)
			if !ok || key >= len(list) {
				return nil
			}
			v = list[key]
		}
	}
	return v
}

func number(v any) float64 {
	var f float64
	_, _ = fmt.Sscan(fmt.Sprint(v), &f)
	return f
}
