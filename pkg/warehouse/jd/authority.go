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

// NewAuthority makes one. env looks up the application's secret where that is kept in the environment, trust says where it
// may be kept; transport carries the requests, one of jdapi.NewTransport when nil.
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

// ConsentURL is the page on which the merchant consents.
func (a *Authority) ConsentURL(redirect, state string) (string, error) {
	return a.oauth.ConsentURL(redirect, state)
}

// Exchange takes the code of a consent for tokens.
func (a *Authority) Exchange(ctx context.Context, code, redirect, state string) (token.Grant, error) {
	g, err := a.oauth.Exchange(ctx, code, redirect, state)
	return given(g), fate(err, "token.code",
		"京东没有接受授权码：授权码只能使用一次且很快过期，请重新打开授权链接；并检查 app_key、App Secret 和 authorization.platform",
		"JD did not take the code: one works once and not for long, so open the link again; look at app_key, its secret and authorization.platform")
}

// Refresh takes a refresh token for tokens that live longer.
func (a *Authority) Refresh(ctx context.Context, refresh secret.Text) (token.Grant, error) {
	g, err := a.oauth.Refresh(ctx, refresh)
	return given(g), fate(err, "token.refused", "京东拒绝刷新令牌", "JD does not refresh the token")
}

func given(g jdapi.Grant) token.Grant {
	return token.Grant{Access: g.Access, Refresh: g.Refresh, Life: g.Life, Owner: g.UID}
}

func fate(err error, code, zh, en string) error {
	var no *jdapi.Error
	switch {
	case errors.As(err, &no):
		return fault.Permanent(fmt.Errorf("%w: %w", refusal(no, code, zh, en), err))
	case errors.Is(err, jdapi.ErrLost):
		return fault.Unknown(err)
	}
	return err
}

// TokenKeeper keeps tokens that are ours to refresh: a token.Keeper, or a token.Reader for those who only look.
type TokenKeeper interface {
	Token(id token.ID, a *sellerv1.Account) (token.Current, error)
	Renew(ctx context.Context, id token.ID, a *sellerv1.Account, used token.Current) (token.Current, error)
}

// tokens finds who keeps an account's token.
func tokens(o Options, a *sellerv1.Account) jdapi.Tokens {
	given := jdapi.Reread{Source: source(a.AccessToken, o.Env, o.Trust)}
	if o.Tokens == nil || !token.Ours(a) {
		return given
	}
	k := kept{keeper: o.Tokens, id: token.ID{Seller: o.Seller.Name(), Account: a.Name}, account: a}
	if a.AccessToken != nil {
		k.given = &given
	}
	return k
}

// kept is a token of ours. Until a merchant consented, the one that the set-up names serves where it names one.
type kept struct {
	keeper  TokenKeeper
	id      token.ID
	account *sellerv1.Account
	given   *jdapi.Reread
}

func (k kept) Token(ctx context.Context) (jdapi.Token, error) {
	t, err := k.keeper.Token(k.id, k.account)
	if errors.Is(err, token.ErrNone) && k.given != nil {
		return k.given.Token(ctx)
	}
	return jdapi.Token(t), person(err)
}

func (k kept) Renew(ctx context.Context, old jdapi.Token) (jdapi.Token, error) {
	t, err := k.keeper.Renew(ctx, k.id, k.account, token.Current(old))
	if errors.Is(err, token.ErrNone) && k.given != nil {
		return k.given.Renew(ctx, old)
	}
	return jdapi.Token(t), person(err)
}

// person marks what takes a person in jdapi's words.
func person(err error) error {
	if errors.Is(err, token.ErrPerson) {
		return fmt.Errorf("%w: %w", jdapi.ErrToken, err)
	}
	return err
}
