// Package jdapi calls the JD warehouse API (ECLP, also sold as Canghai). It uses JD's terms and does not know ours.
//
// A method of Client is one business call. Each call consists of system parameters, signature, a turn from the Limiter,
// POST, and lenient decoding. Its error says what the caller can do:
//
//   - ErrNotSent: JD never received it.
//   - ErrLost: it was sent, and no trustworthy answer arrived. A write may have happened.
//   - *Error: JD answered with a code; its Class says what kind.
//   - ErrToken, together with one of the above: the credential is missing or not accepted. Nothing was done.
//   - ErrAddress, together with one of the first two: the account's URL is not that of JD's gateway.
//
// No error shows a secret, or personal data that JD quotes.
//
// A call is repeated only where JD certainly refused it before processing, and once for each cause: after correcting our
// clock (code 8), and after reading the token again (code 19). The caller alone knows whether any other repetition is
// safe. The package knows nothing about the states of orders or about what a refusal means to a merchant.
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

	"stockbridge/pkg/quota"
)

// Production is JD's address. The end of the path selects JSON.
const Production = "https://api.jd.com/routerjson"

// Limits of a call.
const (
	// callLimit bounds a call with its repetitions. It stays below the 25 s of the handlers of events.
	callLimit = 10 * time.Second
	// MaxRequest is the largest business request, in bytes of JSON.
	MaxRequest = 1 << 20
	// maxAnswer is the largest answer, in bytes after decompression.
	maxAnswer = 8 << 20
)

var (
	// ErrNotSent means that JD never received the call.
	ErrNotSent = errors.New("not sent")
	// ErrLost means that the call was sent and no trustworthy answer arrived.
	ErrLost = errors.New("answer lost")
	// ErrToken means that the token or the application's key or secret is missing, or that JD does not accept it even after
	// it was read again. Nothing was done.
	ErrToken = errors.New("credential not accepted")
	// ErrAddress means, together with ErrNotSent or ErrLost, that the account's URL is not that of JD's gateway.
	ErrAddress = errors.New("not the address of JD's gateway")
	// ErrReadOnly means that a method that may write was called on a read-only Client.
	ErrReadOnly = errors.New("only reading is allowed")
)

// beijing is the zone of all of JD's times. China has had no summer time since 1991.
var beijing = time.FixedZone("UTC+8", 8*60*60)

// Limiter assigns turns, so that all replicas together stay below what JD allows one application.
type Limiter interface {
	// Acquire waits for a turn of class, or returns an error if the turn is too far in the future. release ends the turn.
	Acquire(ctx context.Context, class quota.Class) (release func(), err error)
}

// Client calls JD for one merchant. It must not be copied; many goroutines may use it.
type Client struct {
	// URL is JD's address, Production if empty.
	URL string
	// AppKey and AppSecret are the application's, Tokens the merchant's.
	AppKey    string
	AppSecret Source
	Tokens    Tokens
	// Limiter is asked before each HTTP request, including repetitions, because JD counts failed calls as well. Nil means no
	// limit.
	Limiter Limiter
	// Class is passed to the Limiter.
	Class quota.Class
	// Watch is called for each HTTP request, including repetitions, once its turn has come; the function that it returns is
	// called with the outcome. method has no prefix ("order.addOrder"). Optional.
	Watch func(ctx context.Context, method string) (context.Context, func(error))
	// Transport carries the requests (NewTransport if nil). It is not an http.Client, which would follow a redirect and send
	// an order to wherever it points.
	Transport http.RoundTripper
	// Now is the clock, time.Now if nil.
	Now func() time.Time
	// ReadOnly rejects every method that is not known to change nothing at JD, with ErrReadOnly and ErrNotSent.
	ReadOnly bool

	once     sync.Once
	own      *http.Transport
	skew     atomic.Int64 // JD's clock minus ours, in nanoseconds
	renewing singleflight.Group
}

// NewTransport makes a transport for JD. Several clients may share one.
func NewTransport() *http.Transport {
	dial := &net.Dialer{Timeout: 3 * time.Second, KeepAlive: 30 * time.Second}
	// HTTP/2 would repeat requests automatically.
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
		// Shorter than gateways usually keep a connection: a request that meets the closing of its connection has an unknown
		// outcome.
		IdleConnTimeout: 20 * time.Second,
	}
}

// encoded is a business request that is text already.
type encoded string

// ParamJSON returns the text of a business request as it is signed and sent.
func ParamJSON(request any) (string, error) {
	if text, ok := request.(encoded); ok {
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

// call makes one business call and decodes the content of the envelope into answer.
func (c *Client) call(ctx context.Context, method string, request, answer any) error {
	if err := c.attempt(ctx, method, request, answer); err != nil {
		return fmt.Errorf("jd %s: %w", shortOf(method), err)
	}
	return nil
}

// shortOf is a method's name as operators know it.
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

// exchange makes one HTTP request and returns the content of the envelope and the date of the answer.
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
		return nil, date, dataOf(param).Error(err) // net/http quotes an answer that is not HTTP
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		// Answers and refusals alike have status 200.
		_, _ = io.CopyN(io.Discard, response.Body, 4<<10) // after reading a short page the connection can be reused
		if wrongAddress(response.StatusCode) {
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
	inner, err = openEnvelope(method, body)
	if page := bytes.TrimSpace(body); err != nil && bytes.HasPrefix(page, []byte("<")) {
		// JD may send a page when it is busy, so this is not ErrAddress.
		err = fmt.Errorf("%w: a page in place of an answer from %s", ErrLost, where(request.URL))
	}
	var no *Error
	if errors.As(err, &no) {
		no.sanitize(dataOf(param), secret, token)
	}
	return inner, date, err
}

// wrongAddress reports whether an HTTP status says that the URL is not the gateway's: moved, not found, gone, or POST not
// allowed. It does not prove that nothing was done, so the error is ErrLost all the same: a proxy may answer so after it
// has passed the request on.
func wrongAddress(status int) bool {
	return status >= 300 && status < 400 || status == http.StatusNotFound || status == http.StatusMethodNotAllowed || status == http.StatusGone
}

// where is a URL without what may be secret in it.
func where(u *url.URL) string { return u.Host + u.Path }

// roundTrip sends a request once. Its errors wrap ErrNotSent or ErrLost and contain no URL.
func roundTrip(ctx context.Context, transport http.RoundTripper, request *http.Request) (*http.Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	// A transport that looked for a connection and got none sent nothing. One that does not report it is not trusted.
	var sought, got atomic.Bool
	request = request.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { sought.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { got.Store(true) },
	}))
	response, err := transport.RoundTrip(request)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // its text contains the URL, and so the token
		}
		if sought.Load() && !got.Load() {
			return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrLost, err)
	}
	return response, nil
}

// request puts the system parameters and the signature into the query and the business request into the body, as JD's
// Java SDK and production ERPs do.
func (c *Client) request(ctx context.Context, method, param string, secret, token Secret) (*http.Request, error) {
	if c.AppKey == "" || token.Reveal() == "" {
		return nil, fmt.Errorf("%w: the application's key or the access token is empty", ErrToken)
	}
	address := c.URL
	if address == "" {
		address = Production
	}
	// No error here quotes the URL: it may contain a password.
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
	request.GetBody = nil // net/http must not send it again
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

// correct sets our clock by the date of JD's answer; false if there is none.
func (c *Client) correct(date time.Time) bool {
	if date.IsZero() {
		return false
	}
	c.skew.Store(int64(date.Sub(c.ours())))
	return true
}

// renew asks for the successor of token old, once for all calls that met the same refusal.
func (c *Client) renew(ctx context.Context, old Token) (Token, error) {
	answer := c.renewing.DoChan(strconv.FormatUint(old.Grant, 10)+" "+old.Secret.Reveal(), func() (any, error) {
		// Other callers wait for it as well: it does not end with the first one's context.
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
