package deploy_test

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
)

func compose(t *testing.T) *types.Project {
	t.Helper()
	warnings := test.NewGlobal()
	logrus.SetLevel(logrus.InfoLevel)
	options, err := cli.NewProjectOptions([]string{root(t) + "/docker-compose.yml"}, cli.WithProfiles([]string{"*"}))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range warnings.AllEntries() {
		t.Errorf("docker-compose.yml: %s", w.Message)
	}
	return project
}

// foreign are the services that are not ours, and the program of their health check, which their images hold: busybox in
// alpine, and what the image is for.
var foreign = map[string]string{"nats": "wget", "redis": "redis-cli"}

func TestCompose(t *testing.T) {
	project := compose(t)
	var run []string
	for name, s := range project.Services {
		ports(t, s)
		if tool, ok := foreign[name]; ok {
			if s.HealthCheck == nil || len(s.HealthCheck.Test) < 2 || s.HealthCheck.Test[0] != "CMD" || s.HealthCheck.Test[1] != tool {
				t.Errorf("%s: health check %+v: want %s", name, s.HealthCheck, tool)
			}
			if !regexp.MustCompile(`:\d+(\.\d+)?-alpine$`).MatchString(s.Image) {
				t.Errorf("%s: image %s: want a version", name, s.Image)
			}
			if len(s.Volumes) == 0 {
				t.Errorf("%s forgets everything when its container goes", name)
			}
			continue
		}
		shut(t, s)
		service := *s.Build.Args["SERVICE"]
		if name != service && name != "topology" {
			t.Errorf("%s is built from %s", name, service)
		}
		known := append(settings(t, service), sellersSecrets...)
		if service == "bridgectl" {
			known = append(known, fewNeed...)
		}
		for key := range s.Environment {
			if !slices.Contains(known, key) {
				t.Errorf("%s: %s is no setting of %s", name, key, service)
			}
		}
		if serves := service != "bridgectl"; serves != (s.HealthCheck == nil) {
			t.Errorf("%s: health check %+v: the image's for what serves, disabled for what does not", name, s.HealthCheck)
		}
		if slices.Contains(workers(t), name) {
			run = append(run, name)
			worker(t, project, s)
		}
	}
	slices.Sort(run)
	if want := workers(t); !slices.Equal(run, want) {
		t.Errorf("it runs %v, want %v", run, want)
	}
	if on := project.Services["topology"].DependsOn["nats"]; on.Condition != types.ServiceConditionHealthy {
		t.Errorf("topology starts when nats is %q", on.Condition)
	}
	redis := strings.Join(project.Services["redis"].Command, " ")
	for _, want := range []string{"--appendonly yes", "--maxmemory-policy noeviction"} {
		if !strings.Contains(redis, want) {
			t.Errorf("redis runs without %s: workers refuse it", want)
		}
	}
	if nats := project.Configs["nats"].Content; !strings.Contains(nats, "sync_interval: always") {
		t.Error("nats does not sync what it acknowledges")
	}
}

// ports: nothing is open to other machines.
func ports(t *testing.T, s types.ServiceConfig) {
	t.Helper()
	for _, p := range s.Ports {
		if p.HostIP != "127.0.0.1" {
			t.Errorf("%s: port %s is open to the network", s.Name, p.Published)
		}
	}
}

// shut: a program of ours may nothing and knows no secret but the sandbox's.
func shut(t *testing.T, s types.ServiceConfig) {
	t.Helper()
	if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") || s.Privileged || s.User != "" {
		t.Errorf("%s may more than it needs", s.Name)
	}
	for key, value := range s.Environment {
		if strings.Contains(key, "SECRET") || strings.Contains(key, "TOKEN") || strings.Contains(key, "PASSWORD") {
			if value == nil || !strings.HasPrefix(*value, "sandbox-") {
				t.Errorf("%s: %s is a secret in the file", s.Name, key)
			}
		}
		if u, err := url.Parse(*value); err == nil && u.User != nil {
			t.Errorf("%s: %s holds a password", s.Name, key)
		}
	}
}

func worker(t *testing.T, p *types.Project, s types.ServiceConfig) {
	t.Helper()
	if s.DependsOn["topology"].Condition != types.ServiceConditionCompletedSuccessfully || s.DependsOn["redis"].Condition != types.ServiceConditionHealthy {
		t.Errorf("%s does not wait for the topology and the ledger: %+v", s.Name, s.DependsOn)
	}
	if s.Restart != "unless-stopped" {
		t.Errorf("%s: restart %q", s.Name, s.Restart)
	}
	if limit := grace(t, s) + closing; s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) <= limit {
		t.Errorf("%s: stop_grace_period %v; it may need %v and is killed before", s.Name, s.StopGracePeriod, limit)
	}
	for _, key := range []string{"NATS_URL", "REDIS_URL"} {
		u, err := url.Parse(*s.Environment[key])
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := p.Services[u.Hostname()]; !ok {
			t.Errorf("%s: %s leads to %s, which is no service", s.Name, key, u.Hostname())
		}
	}
}

// closing is what a worker may need beyond GRACE to give back what is left (closeFor in pkg/worker).
const closing = 10 * time.Second

// grace is the worker's GRACE: the one set here, else its default.
func grace(t *testing.T, s types.ServiceConfig) time.Duration {
	t.Helper()
	text := regexp.MustCompile(`(?m)^#GRACE=(\S+)`).FindStringSubmatch(read(t, "deploy", "env", s.Name+".env"))[1]
	if set := s.Environment["GRACE"]; set != nil {
		text = *set
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
