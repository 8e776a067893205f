package jd

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/secret"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/token"
	"stockbridge/pkg/warehouse/jd/jdapi"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Authority is JD's authorisation server for one account (docs/jd-api.md, Authorisation).
type Authority struct{ oauth jdapi.OAuth }

var _ token.Authority = (*Authority)(nil)

// NewAuthority makes an Authority. env reads environment variables if the application's secret is kept there, trust
// limits where secrets may be kept, transport carries the requests (jdapi.NewTransport if nil).
func NewAuthority(a *sellerv1.Account, env func(string) string, trust seller.Trust, transport http.RoundTripper) *Authority {
	generation := jdapi.NewPlatform
	if a.GetAuthorization().GetPlatform() == sellerv1.Authorization_PLATFORM_OLD {
		generation = jdapi.OldPlatform
	}
	return &Authority{jdapi.OAuth{
		Generation: generation, URL: a.GetAuthorization().GetUrl(), AppKey: a.GetAppKey(), AppSecret: source(a.GetAppSecret(), env, trust),
		Transport: transport,
	}}
}

// ConsentURL returns the page on which the merchant consents.
func (a *Authority) ConsentURL(redirect, state string) (string, error) {
	return a.oauth.ConsentURL(redirect, state)
}

// Exchange exchanges the code of a consent for tokens.
func (a *Authority) Exchange(ctx context.Context, code, redirect, state string) (token.Grant, error) {
	g, err := a.oauth.Exchange(ctx, code, redirect, state)
	return toGrant(g), grantError(err, "token.code",
		"京东没有接受授权码：授权码只能使用一次且很快过期，请重新打开授权链接；并检查 app_key、App Secret 和 authorization.platform",
		"JD did not accept the code: it works once and expires soon, so open the link again; check app_key, its secret and authorization.platform")
}

// Refresh exchanges a refresh token for tokens with a later expiry.
func (a *Authority) Refresh(ctx context.Context, refresh secret.Text) (token.Grant, error) {
	g, err := a.oauth.Refresh(ctx, refresh)
	return toGrant(g), grantError(err, "token.refused", "京东拒绝刷新令牌", "JD does not refresh the token")
}

func toGrant(g jdapi.Grant) token.Grant {
	return token.Grant{Access: g.Access, Refresh: g.Refresh, Life: g.Life, Owner: g.UID}
}

func grantError(err error, code, zh, en string) error {
	var no *jdapi.Error
	switch {
	case errors.As(err, &no):
		return fault.Permanent(fmt.Errorf("%w: %w", refusal(no, code, zh, en), err))
	case errors.Is(err, jdapi.ErrLost):
		return fault.Unknown(err)
	}
	return err
}

// tokens returns the source of an account's token.
func tokens(o Options, a *sellerv1.Account) jdapi.Tokens {
	given := jdapi.Reread{Source: source(a.AccessToken, o.Env, o.Trust)}
	if o.Tokens == nil || !token.Ours(a) {
		return given
	}
	k := keptToken{keeper: o.Tokens, id: token.ID{Seller: o.Seller.Name(), Account: a.Name}, account: a}
	if a.AccessToken != nil {
		k.given = &given
	}
	return k
}

// keptToken is a token that we refresh. Until the merchant has consented, the token named in the settings is used, if
// there is one.
type keptToken struct {
	keeper  token.Source
	id      token.ID
	account *sellerv1.Account
	given   *jdapi.Reread
}

func (k keptToken) Token(ctx context.Context) (jdapi.Token, error) {
	t, err := k.keeper.Token(k.id, k.account)
	if errors.Is(err, token.ErrNone) && k.given != nil {
		return k.given.Token(ctx)
	}
	return jdapi.Token(t), needsPerson(err)
}

func (k keptToken) Renew(ctx context.Context, old jdapi.Token) (jdapi.Token, error) {
	t, err := k.keeper.Renew(ctx, k.id, k.account, token.Current(old))
	if errors.Is(err, token.ErrNone) && k.given != nil {
		return k.given.Renew(ctx, old)
	}
	return jdapi.Token(t), needsPerson(err)
}

// needsPerson marks an error that only a person can fix with jdapi's mark for it.
func needsPerson(err error) error {
	if errors.Is(err, token.ErrPerson) {
		return fmt.Errorf("%w: %w", jdapi.ErrToken, err)
	}
	return err
}
