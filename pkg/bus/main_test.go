package bus_test

import (
	"os"
	"testing"

	"stockbridge/pkg/bus/bustest"
)

func TestMain(m *testing.M) { os.Exit(bustest.Run(m, services()...)) }
