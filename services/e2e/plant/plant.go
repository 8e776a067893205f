// Package plant plants bugs between the workers and the sandbox, so that the demo and the stories can show that they
// would be noticed.
package plant

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"
)

// Blind is the bug of a client that repeats a call whose answer was lost, under the same number, without asking.
const Blind = "blind"

// Proxy starts a proxy in front of target, on loopback, that has the named bug; "" has none and starts nothing.
func Proxy(name, target string) (at string, stop func(), err error) {
	switch name {
	case "":
		return target, func() {}, nil
	case Blind:
	default:
		return "", nil, fmt.Errorf("plant %q: there is only %q", name, Blind)
	}
	to, err := url.Parse(target)
	if err != nil {
		return "", nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport: repeat{&http.Transport{MaxIdleConnsPerHost: 64}},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	server := &http.Server{Handler: proxy, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener) // ends by Close below
	}()
	return "http://" + listener.Addr().String(), func() { _ = server.Close(); <-ended }, nil
}

// repeat sends again whatever failed, once.
type repeat struct{ next *http.Transport }

func (r repeat) RoundTrip(request *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return nil, err
	}
	var answer *http.Response
	for range 2 {
		again := request.Clone(request.Context())
		again.Body = io.NopCloser(bytes.NewReader(body))
		if answer, err = r.next.RoundTrip(again); err == nil {
			return answer, nil
		}
	}
	return nil, err
}
