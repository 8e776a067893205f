//go:build unix

package plant

import "testing"

func TestEachScenarioIsWrittenDown(t *testing.T) {
	for _, s := range Scenarios() {
		if scripts()[s.Name] == nil {
			t.Errorf("nobody wrote down how %s goes", s.Name)
		}
	}
	if len(scripts()) != len(Scenarios()) {
		t.Error("a script without a scenario")
	}
}
