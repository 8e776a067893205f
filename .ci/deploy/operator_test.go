package deploy_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// notes is NOTES.txt of a set of values.
func notes(t *testing.T, values map[string]any) string {
	t.Helper()
	files, err := rendered(t, values)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if strings.HasSuffix(name, "NOTES.txt") {
			return text
		}
	}
	t.Fatal("no notes")
	return ""
}

// What the notes say can be done as it stands: the sandbox' address is its gateway's, bridgectl runs in a pod that there
// is, and no password is printed or asked for.
func TestNotes(t *testing.T) {
	for name, values := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			text := notes(t, values)
			pod := regexp.MustCompile(`exec -i deploy/(\S+) -- /service .*seller apply -f -`).FindStringSubmatch(text)
			if pod == nil {
				t.Fatalf("no way to run bridgectl:\n%s", text)
			}
			objects, err := render(t, values)
			if err != nil {
				t.Fatal(err)
			}
			if find(objects, "Deployment", pod[1]) == nil {
				t.Errorf("it runs bridgectl in %s, which is not there", pod[1])
			}
			if strings.Contains(text, "kubectl run") || strings.Contains(text, "get secret") {
				t.Errorf("a pod without the connections, or a password in somebody's shell:\n%s", text)
			}
			url := regexp.MustCompile(`accounts\[\]\.url: (\S+)`).FindStringSubmatch(text)
			if name == "trial" && (url == nil || url[1] != "http://shop-stockbridge-jd-sandbox:18080/routerjson") {
				t.Errorf("the sandbox is at %v", url)
			}
		})
	}
	without := valueSets(t)["minimal"]
	without["bridgectl"] = map[string]any{"enabled": false}
	if text := notes(t, without); strings.Contains(text, "exec") || !strings.Contains(text, "bridgectl.enabled") {
		t.Errorf("without the pod:\n%s", text)
	}
}

// The operator's pod reaches what the topology job reaches, and has what seller doctor and authorize need.
func TestTheOperatorsPod(t *testing.T) {
	objects, err := render(t, valueSets(t)["production"])
	if err != nil {
		t.Fatal(err)
	}
	pod := podOf(find(objects, "Deployment", "shop-stockbridge-bridgectl"))
	container, env := at(pod, "containers", 0), map[string]any{}
	for _, e := range at(container, "env").([]any) {
		env[at(e, "name").(string)] = e
	}
	for name, want := range map[string]string{"NATS_URL": "map[key:bridgectl name:stockbridge-nats]", "REDIS_URL": "map[key:url name:stockbridge-redis]"} {
		if got := fmt.Sprint(at(env[name], "valueFrom", "secretKeyRef")); got != want {
			t.Errorf("%s comes from %s, want %s", name, got, want)
		}
	}
	var mounts []string
	for _, m := range at(container, "volumeMounts").([]any) {
		mounts = append(mounts, fmt.Sprint(at(m, "mountPath")))
	}
	for _, want := range []string{"/run/ca", "/run/secrets/settings/TOKEN_KEY_FILE", "/run/secrets/sellers/acme-jd"} {
		if !slices.Contains(mounts, want) {
			t.Errorf("%s is not mounted: %v", want, mounts)
		}
	}
	if got := at(container, "envFrom", 0, "secretRef", "name"); got != "bolt.jd" {
		t.Errorf("secrets as variables: %v", got)
	}

	// Its program waits there until it is stopped.
	if args := fmt.Sprint(at(container, "args")); args != "[idle]" {
		t.Fatalf("args %s", args)
	}
	c := exec.Command(filepath.Join(program(t, "bridgectl"), "service"), "idle")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case err := <-ended:
		t.Fatalf("it does not wait: %v", err)
	case <-time.After(500 * time.Millisecond): // nothing shows that it would keep waiting
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("asked to stop: %v", err)
	}
}

// A worker that was taken over reaches NATS and Redis where they are, and not every host on their ports.
func TestTheNetworkPolicyNamesWhereToGo(t *testing.T) {
	sets := valueSets(t)
	rules := func(values map[string]any) (reach map[string]any, selects string) {
		objects, err := render(t, values)
		if err != nil {
			t.Fatal(err)
		}
		policy := find(objects, "NetworkPolicy", "shop-stockbridge")
		reach = map[string]any{}
		for _, rule := range at(policy, "spec", "egress").([]any) {
			ports, _ := at(rule, "ports").([]any)
			if len(ports) == 0 {
				t.Errorf("a rule without ports is for all of them: %v", rule)
			}
			for _, p := range ports {
				key := fmt.Sprint(at(p, "port"))
				if have, ok := reach[key]; ok && have != nil {
					reach[key] = fmt.Sprint(have, at(rule, "to"))
					continue
				}
				reach[key] = at(rule, "to")
			}
		}
		return reach, fmt.Sprint(at(policy, "spec", "podSelector", "matchExpressions", 0, "values"))
	}
	reach, selects := rules(sets["production"])
	for port, want := range map[string]string{"4222": "nats", "6379": "redis"} {
		if to := fmt.Sprint(reach[port]); !strings.Contains(to, "kubernetes.io/metadata.name:"+want) {
			t.Errorf("port %s goes to %s", port, to)
		}
	}
	if reach["443"] != nil {
		t.Errorf("JD's addresses change, and its port goes to %v", reach["443"])
	}
	if !strings.Contains(selects, "bridgectl") || !strings.Contains(selects, "topology") {
		t.Errorf("the policy is for %s", selects)
	}
	trial := sets["trial"]
	trial["networkPolicy"] = map[string]any{"enabled": true, "egressPorts": []any{}}
	reach, _ = rules(trial)
	for port, want := range map[string]string{"4222": "component:nats", "18080": "component:jd-sandbox"} {
		if to := fmt.Sprint(reach[port]); !strings.Contains(to, want) || reach["6379"] != nil || reach["443"] != nil {
			t.Errorf("in a trial port %s goes to %s", port, to)
		}
	}
}

// The trial's NATS says where its volume comes from, and is restarted when a full disk has closed a stream.
func TestTheTrialsNATS(t *testing.T) {
	values := valueSets(t)["trial"]
	values["trial"].(map[string]any)["storageClass"] = "fast"
	objects, err := render(t, values)
	if err != nil {
		t.Fatal(err)
	}
	set := find(objects, "StatefulSet", "shop-stockbridge-nats")
	if got := at(set, "spec", "volumeClaimTemplates", 0, "spec", "storageClassName"); got != "fast" {
		t.Errorf("class %v", got)
	}
	for _, probe := range []string{"startupProbe", "livenessProbe"} {
		if got := at(podOf(set), "containers", 0, probe, "httpGet", "path"); got != "/healthz" {
			t.Errorf("%s asks %v", probe, got)
		}
	}
}

// KEDA takes no notice of an authentication without its modes.
func TestScalingAuthenticates(t *testing.T) {
	objects, err := render(t, valueSets(t)["production"])
	if err != nil {
		t.Fatal(err)
	}
	trigger := at(find(objects, "ScaledObject", "shop-stockbridge-order-pusher"), "spec", "triggers", 0)
	if at(trigger, "authenticationRef", "name") != "prometheus" || at(trigger, "metadata", "authModes") != "bearer" {
		t.Errorf("%v", trigger)
	}
	if text := read(t, "docs", "operations.md"); !strings.Contains(text, "kind: TriggerAuthentication") || !strings.Contains(text, "parameter: bearerToken") {
		t.Error("docs/operations.md does not show the object that keda.authentication names")
	}
}

// The guide builds every image that a set of values runs, and its commands can be repeated after a failure.
func TestTheGuideToKubernetes(t *testing.T) {
	text := read(t, "docs", "operations.md")
	loop := regexp.MustCompile(`for s in ([a-z -]+); do docker build`).FindStringSubmatch(text)
	if loop == nil {
		t.Fatal("no loop that builds images")
	}
	if built := strings.Fields(loop[1]); !slices.Equal(slices.Sorted(slices.Values(built)), slices.Sorted(slices.Values(services(t)))) {
		t.Errorf("it builds %v, of %v", built, services(t))
	}
	for _, doc := range []string{"operations.md", "getting-started.md"} {
		if regexp.MustCompile(`helm install\b`).MatchString(read(t, "docs", doc)) {
			t.Errorf("docs/%s: helm install is refused after a failed one; say helm upgrade --install", doc)
		}
	}
}
