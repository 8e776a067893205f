// Package jdapi calls the JD warehouse API (ECLP, also sold as Canghai). It knows JD's words, not ours.
//
// A method of Client is one business call. Each goes the same way: system parameters, signature, a turn from the
// Limiter, POST, lenient decoding, and an error that tells what the caller can do:
//
//   - ErrNotSent: JD never heard of it.
//   - ErrLost: it was sent, and no answer that can be trusted came back. A write may have happened.
//   - *Error: JD answered with a code; its Class says what kind.
//   - ErrToken, besides one of the above: the credential is missing or not accepted. Nothing was done.
//   - ErrAddress, besides one of the first two: the account's URL is not that of JD's gateway.
//
// No error shows a secret, or what JD quotes of the people whose data was sent.
//
// Nothing is repeated but what JD certainly refused before looking at it, and that once each: a call outside JD's
// clock window after correcting our clock (code 8), and a call with an old token after reading it anew (code 19). All
// other repeating is the caller's, who alone knows whether it is safe. The package also knows nothing of orders' states
// or of what a refusal means to a merchant.
//
// The facts about JD are listed in docs/jd-api.md.
package jdapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

// Production is JD's address (docs/jd-api.md, Address and transport). The end of the path asks for JSON.
const Production = "https://api.jd.com/routerjson"

// Limits of a call.
const (
	// callLimit is for a call with its repeats. It stays below the 25 s of whoever handles an event.
	callLimit = 10 * time.Second
	// MaxRequest is the most that the JSON of a business request may have, in bytes.
	MaxRequest = 1 << 20
	// maxAnswer is the most that is read of an answer, in bytes, unpacked.
	maxAnswer = 8 << 20
)

var (
	// ErrNotSent says that JD never heard of the call.
	ErrNotSent = errors.New("not sent")
	// ErrLost says that the call was sent and that no answer came which can be trusted.
	ErrLost = errors.New("answer lost")
	// ErrToken says that the token, the application's key or secret is missing, or that JD does not take it, even read
	// anew. Nothing was done.
	ErrToken = errors.New("credential not accepted")
	// ErrAddress says, besides ErrNotSent or ErrLost, that the account's URL is not that of JD's gateway.
	ErrAddress = errors.New("not the address of JD's gateway")
	// ErrReadOnly says that a Client which may only read was asked to call a method that may write.
	ErrReadOnly = errors.New("only reading is allowed")
)

// beijing is the zone of all of JD's times (docs/jd-api.md, Timestamp). China has had no summer time since 1991.
var beijing = time.FixedZone("UTC+8", 8*60*60)

// Limiter gives turns, so that all replicas together stay below what JD allows one application (docs/jd-api.md, Limits and idempotency).
type Limiter interface {
	// Acquire waits for a turn of class, or says by its error that the turn is too far away. release ends the turn.
	Acquire(ctx context.Context, class string) (release func(), err error)
}

// Client calls JD for one merchant. It must not be copied; many goroutines may use it.
type Client struct {
	// URL is where JD answers, Production when empty.
	URL string
	// AppKey and AppSecret are the application's, Tokens the merchant's.
	AppKey    string
	AppSecret Source
	Tokens    Tokens
	// Limiter is asked before each HTTP request, repeats too, because JD counts failed calls as well. Nil: no limit.
	Limiter Limiter
	// Class is what the Limiter is told.
	Class string
	// Watch is told of each HTTP request, repeats too, once its turn has come; what it returns is called with the outcome.
	// method has no prefix ("order.addOrder"). Optional.
	Watch func(ctx context.Context, method string) (context.Context, func(error))
	// Transport carries the requests, one of NewTransport when nil. It is no http.Client, because that would follow a
	// redirect by sending an order to wherever it points.
	Transport http.RoundTripper
	// Now is the clock, time.Now when nil.
	Now func() time.Time
	// ReadOnly refuses all but the methods that are known to change nothing at JD, with ErrReadOnly and ErrNotSent.
	ReadOnly bool

	once     sync.Once
	own      *http.Transport
	skew     atomic.Int64 // of JD's clock against ours, in nanoseconds
	renewing singleflight.Group
}

// NewTransport makes a transport fit for JD. Several clients may share one.
func NewTransport() *http.Transport {
	dial := &net.Dialer{Timeout: 3 * time.Second, KeepAlive: 30 * time.Second}
	// HTTP/2 would repeat requests by itself.
	var only1 http.Protocols
	only1.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dial.DialContext,
		TLSHandshakeTimeout:    5 * time.Second,
		Protocols:              &only1,
		MaxConnsPerHost:        256,
		MaxIdleConnsPerHost:    64,
		MaxResponseHeaderBytes: 64 << 10,
		// Below what gateways usually allow: a request that meets its connection being closed has an unknown outcome.
		IdleConnTimeout: 20 * time.Second,
	}
}

// written is a business request that is text already.
type written string

// ParamJSON is the text of a business request as it is signed and sent (docs/jd-api.md, Signature).
func ParamJSON(request any) (string, error) {
	if text, ok := request.(written); ok {
		return string(text), nil
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(request); err != nil {
		return "", err
	}
	return strings.TrimSuffix(text.String(), "\n"), nil
}

// call makes one business call and decodes what stands inside the envelope into answer.
func (c *Client) call(ctx context.Context, method string, request, answer any) error {
	if err := c.attempt(ctx, method, request, answer); err != nil {
		return fmt.Errorf("jd %s: %w", shortOf(method), err)
	}
	return nil
}

// shortOf is a method's name as people say it.
func shortOf(method string) string { return strings.TrimPrefix(method, "jingdong.eclp.") }

func (c *Client) attempt(ctx context.Context, method string, request, answer any) error {
	if c.ReadOnly && !slices.Contains(readers, method) {
		return fmt.Errorf("%w: %w", ErrNotSent, ErrReadOnly)
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	param, err := ParamJSON(request)
	if err != nil {
		return fmt.Errorf("%w: encode: %w", ErrNotSent, err)
	}
	if len(param) > MaxRequest {
		return fmt.Errorf("%w: %d bytes are more than the %d of a request", ErrNotSent, len(param), MaxRequest)
	}
	secret, err := c.AppSecret.Read()
	if err != nil {
		return fmt.Errorf("%w: %w: application secret: %w", ErrNotSent, ErrToken, err)
	}
	token, err := c.Tokens.Token(ctx)
	if err != nil {
		return fmt.Errorf("%w: access token: %w", ErrNotSent, err)
	}
	for clocked, renewed := false, false; ; {
		inner, date, err := c.exchange(ctx, method, param, secret, token.Secret)
		var no *Error
		switch {
		case err == nil:
			if err := json.Unmarshal(inner, answer); err != nil {
				return fmt.Errorf("%w: unreadable: %w", ErrLost, dataOf(param).Error(err))
			}
			return nil
		case !errors.As(err, &no):
			return err
		case no.Class == ClassClock && !clocked && c.correct(date):
			clocked = true
		case no.Code == codeToken && !renewed:
			fresh, renewErr := c.renew(ctx, token)
			if errors.Is(renewErr, ErrToken) {
				return fmt.Errorf("%w; renew the access token: %w", err, renewErr)
			}
			if renewErr != nil {
				return fmt.Errorf("%w: renew the access token: %w", ErrNotSent, renewErr)
			}
			token, renewed = fresh, true
		case no.Class == ClassToken || no.Class == ClassConfig:
			return fmt.Errorf("%w: %w", ErrToken, err)
		default:
			return err
		}
	}
}

// exchange is one HTTP request and what came back inside the envelope, with the date of the answer.
func (c *Client) exchange(ctx context.Context, method, param string, secret, token Secret) (inner json.RawMessage, date time.Time, err error) {
	if c.Limiter != nil {
		release, err := c.Limiter.Acquire(ctx, c.Class)
		if err != nil {
			return nil, date, fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		defer release()
	}
	if c.Watch != nil {
		watched, ended := c.Watch(ctx, shortOf(method))
		ctx = watched
		defer func() { ended(err) }()
	}
	request, err := c.request(ctx, method, param, secret, token)
	if err != nil {
		return nil, date, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	response, err := roundTrip(ctx, c.transport(), request)
	if err != nil {
		return nil, date, dataOf(param).Error(err) // net/http quotes an answer that is no HTTP
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		// docs/jd-api.md, Address and transport: answers and refusals alike come with 200.
		_, _ = io.CopyN(io.Discard, response.Body, 4<<10) // a short page leaves the connection usable
		if elsewhere(response.StatusCode) {
			return nil, date, fmt.Errorf("%w: %w: HTTP status %d of %s", ErrLost, ErrAddress, response.StatusCode, where(request.URL))
		}
		return nil, date, fmt.Errorf("%w: HTTP status %d", ErrLost, response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return nil, date, fmt.Errorf("%w: %w", ErrLost, dataOf(param).Error(err))
	}
	if len(body) > maxAnswer {
		return nil, date, fmt.Errorf("%w: more than %d bytes", ErrLost, maxAnswer)
	}
	date, _ = http.ParseTime(response.Header.Get("Date"))
	inner, err = open(method, body)
	if page := bytes.TrimSpace(body); err != nil && bytes.HasPrefix(page, []byte("<")) {
		// JD's own word that it is busy may be a page too, so this is no ErrAddress.
		err = fmt.Errorf("%w: a page in place of an answer from %s", ErrLost, where(request.URL))
	}
	var no *Error
	if errors.As(err, &no) {
		no.tidy(dataOf(param), secret, token)
	}
	return inner, date, err
}

// elsewhere tells whether an HTTP status says that the URL is not the gateway's: moved, not found, gone, or not to be posted
// to. It does not prove that nothing was done, so it is ErrLost all the same: what stands there cannot have run the method,
// but whoever stands in front of the gateway may answer so for it, having passed the request on.
func elsewhere(status int) bool {
	return status >= 300 && status < 400 || status == http.StatusNotFound || status == http.StatusMethodNotAllowed || status == http.StatusGone
}

// where is a URL without what may be secret in it.
func where(u *url.URL) string { return u.Host + u.Path }

// roundTrip sends a request once. Its errors wrap ErrNotSent or ErrLost and hold no URL.
func roundTrip(ctx context.Context, transport http.RoundTripper, request *http.Request) (*http.Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	// A transport that looked for a connection and found none sent nothing. One that does not say is not believed.
	var sought, got atomic.Bool
	request = request.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { sought.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { got.Store(true) },
	}))
	response, err := transport.RoundTrip(request)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // its text has the URL, and that the token
		}
		if sought.Load() && !got.Load() {
			return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrLost, err)
	}
	return response, nil
}

// request puts the system parameters and the signature into the query and the business request into the body, as JD's
// Java SDK and WDT do (docs/jd-api.md, Address and transport).
func (c *Client) request(ctx context.Context, method, param string, secret, token Secret) (*http.Request, error) {
	if c.AppKey == "" || token.Reveal() == "" {
		return nil, fmt.Errorf("%w: the application's key or the access token is empty", ErrToken)
	}
	address := c.URL
	if address == "" {
		address = Production
	}
	// No error here quotes the URL: it may hold a password.
	target, err := url.Parse(address)
	if err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https" {
		return nil, fmt.Errorf("%w: the account's URL cannot be used", ErrAddress)
	}
	if target.Path == "" || target.Path == "/" {
		return nil, fmt.Errorf("%w: %s has no path, JD's ends in /routerjson", ErrAddress, target.Host)
	}
	query := target.Query()
	query.Set("method", method)
	query.Set("app_key", c.AppKey)
	query.Set("access_token", token.Reveal())
	query.Set("timestamp", c.now().In(beijing).Format(time.DateTime))
	query.Set("v", "2.0")
	parameters := map[string]string{paramName: param}
	for name := range query {
		parameters[name] = query.Get(name)
	}
	query.Set("sign", Sign(secret.Reveal(), parameters))
	target.RawQuery = query.Encode()
	body := strings.NewReader(url.Values{paramName: {param}}.Encode())
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), body)
	if err != nil {
		return nil, errors.New("the account's URL cannot be used")
	}
	request.GetBody = nil // nobody but us sends it again
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded;charset=UTF-8")
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "stockbridge")
	return request, nil
}

func (c *Client) transport() http.RoundTripper {
	if c.Transport != nil {
		return c.Transport
	}
	c.once.Do(func() { c.own = NewTransport() })
	return c.own
}

// now is JD's time as far as we know it.
func (c *Client) now() time.Time { return c.ours().Add(time.Duration(c.skew.Load())) }

func (c *Client) ours() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// correct sets our clock by the date of JD's answer (docs/jd-api.md, Timestamp); false when that tells nothing.
func (c *Client) correct(date time.Time) bool {
	if date.IsZero() {
		return false
	}
	c.skew.Store(int64(date.Sub(c.ours())))
	return true
}

// renew asks for the token that took the place of old, once for all calls that met the same refusal.
func (c *Client) renew(ctx context.Context, old Token) (Token, error) {
	answer := c.renewing.DoChan(strconv.FormatUint(old.Grant, 10)+" "+old.Secret.Reveal(), func() (any, error) {
		// Others wait for it as well: it does not end with whoever came first.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
		defer cancel()
		return c.Tokens.Renew(ctx, old)
	})
	select {
	case a := <-answer:
		fresh, _ := a.Val.(Token)
		return fresh, a.Err
	case <-ctx.Done():
		return Token{}, ctx.Err()
	}
}
