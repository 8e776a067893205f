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

// The generations. NewPlatform is the default: of it an answer was observed, of the old one there is documentation only
// ([B] both). Which one an application belongs to is seen at JD where it was registered.
const (
	NewPlatform Generation = "new"
	OldPlatform Generation = "old"
)

// Where the two answer.
const (
	newPlatformURL = "https://open-oauth.jd.com"
	oldPlatformURL = "https://oauth.jd.com"
)

const (
	// maxGrant is the most that is read of an answer, in bytes; they have about 400.
	maxGrant = 64 << 10
	// maxLife is the longest life that is believed. JD gives a year at most (docs/jd-api.md, Authorisation).
	maxLife = 10 * 365 * 24 * time.Hour
	// scope is the only one that docs/jd-api.md, Authorisation knows of, and of the new platform only.
	scope = "snsapi_base"
)

// OAuth asks JD's authorisation server for one application's tokens (docs/jd-api.md, Authorisation). Many goroutines may use it.
//
// Its errors wrap ErrNotSent, ErrLost (the tokens may have changed), or are an *Error: JD said no. docs/jd-api.md, Authorisation lists no codes of
// refusals, so none is told from another here: an *Error says only that no token was given.
//
// No error quotes an address, a secret or a code. The new platform wants them in the query of a GET, so proxies that
// keep addresses may see them: none should stand between us and JD.
type OAuth struct {
	// Generation is NewPlatform when empty.
	Generation Generation
	// URL is where the platform answers, without a path; JD's own when empty.
	URL       string
	AppKey    string
	AppSecret Source
	// Transport carries the requests, one of NewTransport when nil.
	Transport http.RoundTripper
}

// Grant is what JD gives.
type Grant struct {
	Access Secret
	// Refresh is empty when the answer had none.
	Refresh Secret
	// Life of the access token from when it was asked for; 0 when JD did not say. JD's `time` is not used: it would need
	// our clocks to agree.
	Life time.Duration
	// UID is who consented, in JD's numbers; empty when not told.
	UID string
}

// ConsentURL is the page on which the merchant consents. redirect must be the address registered with the application;
// state comes back with the code.
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

// Exchange takes the code of a consent for tokens. redirect and state are those of the consent; the old platform wants
// them again.
func (o *OAuth) Exchange(ctx context.Context, code, redirect, state string) (Grant, error) {
	q := url.Values{"grant_type": {"authorization_code"}, "code": {code}}
	path := "/oauth2/access_token"
	if o.Generation == OldPlatform {
		path = "/oauth/token"
		for name, value := range map[string]string{"redirect_uri": redirect, "state": state} {
			if value != "" { // docs/jd-api.md, System parameters: never transmit an empty parameter
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

// Refresh takes a refresh token for tokens that live longer: both may be new, or the access token the same as before
// (docs/jd-api.md, Authorisation: the old platform). Whether a refresh token works twice is not known.
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
		no.tidy(personal.Data{}, secret, given)
		return Grant{}, no
	}
	if response.StatusCode != http.StatusOK { // a refusal is believed whatever it comes with, tokens are not
		return Grant{}, fmt.Errorf("%w: HTTP status %d", ErrLost, response.StatusCode)
	}
	return g, err
}

// request is a GET on the new platform, which knows nothing else, and a POST on the old one, which takes both and so
// keeps secrets out of the address.
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
			request.GetBody = nil // nobody but us sends it again
			request.Header.Set("Content-Type", "application/x-www-form-urlencoded;charset=UTF-8")
		}
	} else {
		q.Set("app_key", o.AppKey)
		q.Set("app_secret", secret.Reveal())
		address, no := o.address(path, q)
		if no != nil {
			return nil, no
		}
		// A GET without a body, on a connection that just closed, is sent again by net/http: a refresh token would be used
		// twice. One whose body cannot be had again is not, and an empty body is not sent.
		request, err = http.NewRequestWithContext(ctx, http.MethodGet, address, io.NopCloser(strings.NewReader("")))
	}
	if err != nil {
		return nil, errUnusable
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "stockbridge")
	return request, nil
}

// errUnusable quotes no address: it may hold a password.
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

// readGrant reads an answer (docs/jd-api.md, Authorisation). An *Error is JD's no; ErrLost is anything that JD would not say.
func readGrant(body []byte) (Grant, error) {
	var said struct {
		Code    json.RawMessage `json:"code"`
		Access  json.RawMessage `json:"access_token"`
		Refresh json.RawMessage `json:"refresh_token"`
		Expires json.RawMessage `json:"expires_in"`
		UID     json.RawMessage `json:"uid"`
		Msg     json.RawMessage `json:"msg"`
		// The old platform's name of the message is not known (docs/jd-api.md, Authorisation): these are where others put theirs.
		Message     json.RawMessage `json:"message"`
		Description json.RawMessage `json:"error_description"`
		ZH          json.RawMessage `json:"zh_desc"`
	}
	if err := json.Unmarshal(body, &said); err != nil {
		// Not the decoder's own words: they may quote the body, and that holds tokens.
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
	g := Grant{Access: NewSecret(scalar(said.Access)), Refresh: NewSecret(scalar(said.Refresh)), UID: short(scalar(said.UID))}
	if g.Access.Empty() {
		return Grant{}, fmt.Errorf("%w: an answer without a token", ErrLost)
	}
	if seconds, ok := Text(scalar(said.Expires)).Int(); ok && seconds > 0 && seconds <= int64(maxLife/time.Second) {
		g.Life = time.Duration(seconds) * time.Second
	}
	return g, nil
}

// scalar is a field's text however it is typed, "" when it is none: a field that we can do without must not spoil the rest.
func scalar(raw json.RawMessage) string {
	var t Text
	if len(raw) == 0 || t.UnmarshalJSON(raw) != nil {
		return ""
	}
	return string(t)
}

// scrub replaces an error whose text holds a secret, also as it stands in an address. What it wraps of ours stays.
func scrub(err error, secrets ...Secret) error {
	text := hide(err.Error(), secrets)
	if text == err.Error() {
		return err
	}
	for _, ours := range []error{ErrNotSent, ErrLost} {
		if errors.Is(err, ours) {
			return fmt.Errorf("%w: %s", ours, short(strings.TrimPrefix(text, ours.Error()+": ")))
		}
	}
	return errors.New(short(text))
}
