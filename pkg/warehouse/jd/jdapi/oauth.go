package jdapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"stockbridge/pkg/personal"
)

// Generation is one of JD's two authorisation platforms (docs/jd-api.md, Authorisation).
type Generation string

// The generations. NewPlatform is the default: an answer of it was observed, the old one is only documented. JD's console
// shows where an application was registered.
const (
	NewPlatform Generation = "new"
	OldPlatform Generation = "old"
)

// Addresses of the two platforms.
const (
	newPlatformURL = "https://open-oauth.jd.com"
	oldPlatformURL = "https://oauth.jd.com"
)

const (
	// maxGrant is the largest answer in bytes; they have about 400.
	maxGrant = 64 << 10
	// maxLife is the longest life that is accepted. JD gives a year at most.
	maxLife = 10 * 365 * 24 * time.Hour
	// scope is the only documented one, of the new platform only.
	scope = "snsapi_base"
)

// OAuth gets tokens for one application from JD's authorisation server. Many goroutines may use it.
//
// Its errors wrap ErrNotSent or ErrLost (the tokens may have changed), or are an *Error: JD refused. The codes of
// refusals are not published, so an *Error says only that no token was given.
//
// No error quotes an address, a secret or a code. The new platform wants them in the query of a GET, so a proxy that logs
// addresses may see them: there should be none between us and JD.
type OAuth struct {
	// Generation is NewPlatform if empty.
	Generation Generation
	// URL is the platform's address without a path; JD's own if empty.
	URL       string
	AppKey    string
	AppSecret Source
	// Transport carries the requests (NewTransport if nil).
	Transport http.RoundTripper
}

// Grant is the result of a consent or a refresh.
type Grant struct {
	Access Secret
	// Refresh is empty if the answer had none.
	Refresh Secret
	// Life is the life of the access token, counted from the request; 0 if JD did not say. JD's `time` is not used, because
	// the two clocks would have to agree.
	Life time.Duration
	// UID is JD's number of the person who consented; empty if unknown.
	UID string
}

// ConsentURL returns the page on which the merchant consents. redirect must be the address registered with the
// application; JD returns state together with the code.
func (o *OAuth) ConsentURL(redirect, state string) (string, error) {
	q := url.Values{"response_type": {"code"}, "redirect_uri": {redirect}, "state": {state}}
	if o.Generation == OldPlatform {
		q.Set("client_id", o.AppKey)
		return o.address("/oauth/authorize", q)
	}
	q.Set("app_key", o.AppKey)
	q.Set("scope", scope)
	return o.address("/oauth2/to_login", q)
}

// Exchange exchanges the code of a consent for tokens. redirect and state are those of the consent; the old platform
// wants them again.
func (o *OAuth) Exchange(ctx context.Context, code, redirect, state string) (Grant, error) {
	q := url.Values{"grant_type": {"authorization_code"}, "code": {code}}
	path := "/oauth2/access_token"
	if o.Generation == OldPlatform {
		path = "/oauth/token"
		for name, value := range map[string]string{"redirect_uri": redirect, "state": state} {
			if value != "" { // an empty parameter is never sent
				q.Set(name, value)
			}
		}
	}
	g, err := o.ask(ctx, path, q, NewSecret(code))
	if err != nil {
		return Grant{}, fmt.Errorf("jd exchange code: %w", err)
	}
	return g, nil
}

// Refresh exchanges a refresh token for tokens with a later expiry. Both may be new, or the access token may stay the
// same (old platform). Whether a refresh token works twice is unknown.
func (o *OAuth) Refresh(ctx context.Context, refresh Secret) (Grant, error) {
	q := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh.Reveal()}}
	path := "/oauth2/refresh_token"
	if o.Generation == OldPlatform {
		path = "/oauth/token"
	}
	g, err := o.ask(ctx, path, q, refresh)
	if err != nil {
		return Grant{}, fmt.Errorf("jd refresh token: %w", err)
	}
	return g, nil
}

func (o *OAuth) ask(ctx context.Context, path string, q url.Values, given Secret) (Grant, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	secret, err := o.AppSecret.Read()
	if err != nil {
		return Grant{}, fmt.Errorf("%w: application secret: %w", ErrNotSent, err)
	}
	request, err := o.request(ctx, path, q, secret)
	if err != nil {
		return Grant{}, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	transport := o.Transport
	if transport == nil {
		own := NewTransport()
		defer own.CloseIdleConnections()
		transport = own
	}
	response, err := roundTrip(ctx, transport, request)
	if err != nil {
		return Grant{}, scrub(err, secret, given)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxGrant+1))
	switch {
	case err != nil:
		return Grant{}, scrub(fmt.Errorf("%w: %w", ErrLost, err), secret, given)
	case len(body) > maxGrant:
		return Grant{}, fmt.Errorf("%w: more than %d bytes", ErrLost, maxGrant)
	}
	g, err := readGrant(body)
	var no *Error
	if errors.As(err, &no) {
		no.sanitize(personal.Data{}, secret, given)
		return Grant{}, no
	}
	if response.StatusCode != http.StatusOK { // a refusal is accepted with any status, tokens are not
		return Grant{}, fmt.Errorf("%w: HTTP status %d", ErrLost, response.StatusCode)
	}
	return g, err
}

// request makes a GET on the new platform, whose documentation has nothing else, and a POST on the old one, which accepts
// both: a POST keeps secrets out of the address.
func (o *OAuth) request(ctx context.Context, path string, q url.Values, secret Secret) (*http.Request, error) {
	if o.AppKey == "" {
		return nil, errors.New("the application's key is empty")
	}
	var request *http.Request
	var err error
	if o.Generation == OldPlatform {
		q.Set("client_id", o.AppKey)
		q.Set("client_secret", secret.Reveal())
		address, no := o.address(path, nil)
		if no != nil {
			return nil, no
		}
		request, err = http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(q.Encode()))
		if err == nil {
			request.GetBody = nil // net/http must not send it again
			request.Header.Set("Content-Type", "application/x-www-form-urlencoded;charset=UTF-8")
		}
	} else {
		q.Set("app_key", o.AppKey)
		q.Set("app_secret", secret.Reveal())
		address, no := o.address(path, q)
		if no != nil {
			return nil, no
		}
		// net/http sends a GET without a body again if its connection was just closed, which would use a refresh token twice.
		// It does not repeat a request whose body it cannot get again, and it does not send an empty body.
		request, err = http.NewRequestWithContext(ctx, http.MethodGet, address, io.NopCloser(strings.NewReader("")))
	}
	if err != nil {
		return nil, errUnusable
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "stockbridge")
	return request, nil
}

// errUnusable quotes no address: it may contain a password.
var errUnusable = errors.New("the authorisation server's URL cannot be used")

func (o *OAuth) address(path string, q url.Values) (string, error) {
	base := o.URL
	switch {
	case base != "":
	case o.Generation == OldPlatform:
		base = oldPlatformURL
	default:
		base = newPlatformURL
	}
	target, err := url.Parse(strings.TrimSuffix(base, "/") + path)
	if err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https" {
		return "", errUnusable
	}
	target.RawQuery = q.Encode()
	return target.String(), nil
}

// readGrant reads an answer. An *Error is a refusal by JD; ErrLost is anything that is not an answer of JD's.
func readGrant(body []byte) (Grant, error) {
	var said struct {
		Code    json.RawMessage `json:"code"`
		Access  json.RawMessage `json:"access_token"`
		Refresh json.RawMessage `json:"refresh_token"`
		Expires json.RawMessage `json:"expires_in"`
		UID     json.RawMessage `json:"uid"`
		Msg     json.RawMessage `json:"msg"`
		// The old platform's name for the message is unknown: these are common ones.
		Message     json.RawMessage `json:"message"`
		Description json.RawMessage `json:"error_description"`
		ZH          json.RawMessage `json:"zh_desc"`
	}
	if err := json.Unmarshal(body, &said); err != nil {
		// Without the decoder's text, which may quote the body, and so tokens.
		return Grant{}, fmt.Errorf("%w: %d bytes that are no JSON object", ErrLost, len(body))
	}
	if code := scalar(said.Code); code != "" && code != "0" {
		var text string
		for _, m := range []json.RawMessage{said.Msg, said.Message, said.Description, said.ZH} {
			if text = scalar(m); text != "" {
				break
			}
		}
		return Grant{}, &Error{Code: code, Text: text, Class: ClassToken}
	}
	g := Grant{Access: NewSecret(scalar(said.Access)), Refresh: NewSecret(scalar(said.Refresh)), UID: shorten(scalar(said.UID))}
	if g.Access.Empty() {
		return Grant{}, fmt.Errorf("%w: an answer without a token", ErrLost)
	}
	if seconds, ok := Text(scalar(said.Expires)).Int(); ok && seconds > 0 && seconds <= int64(maxLife/time.Second) {
		g.Life = time.Duration(seconds) * time.Second
	}
	return g, nil
}

// scalar is a field's text in any type, "" if it is none: an optional field must not spoil the rest.
func scalar(raw json.RawMessage) string {
	var t Text
	if len(raw) == 0 || t.UnmarshalJSON(raw) != nil {
		return ""
	}
	return string(t)
}

// scrub replaces an error whose text contains a secret, also percent-encoded. Our own marks stay.
func scrub(err error, secrets ...Secret) error {
	text := maskSecrets(err.Error(), secrets)
	if text == err.Error() {
		return err
	}
	for _, ours := range []error{ErrNotSent, ErrLost} {
		if errors.Is(err, ours) {
			return fmt.Errorf("%w: %s", ours, shorten(strings.TrimPrefix(text, ours.Error()+": ")))
		}
	}
	return errors.New(shorten(text))
}
