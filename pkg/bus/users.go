package bus

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"stockbridge/pkg/event"
)

// Operator is the NATS user of bridgectl: it applies the topology and may do everything.
const Operator = "bridgectl"

// User is a NATS user with permissions for only its subjects.
//
// # Why
//
// Our users share one account, each with inboxes of its own (InboxOf; Connect sets them): a user that may subscribe to
// _INBOX.> can read the answers to all others.
//
// A seller's ERP has an account of its own, which sees only what is imported into it. Permissions in a shared account
// do not isolate sellers, however narrow: JetStream itself answers a publish to whatever reply subject the publisher
// names, and delivers a pulled message to whatever subject the puller names. So an ERP that may publish to one subject
// could write to all of them, including the set-up of other sellers (TestASellerCannotReachBeyondItsSubjects). From a
// separate account the answer only goes back into that account.
//
// A seller may not create consumers: a consumer can deliver to any subject, too. It reads through one durable consumer
// that the operator creates, with filters that the operator chooses.
//
// A worker may publish every fact of ours, and not only those that it publishes today: no test of the permissions
// covers a rare event, and it would be missing when it is needed.
type User struct {
	Name string
	// Publish and Subscribe are all permitted subjects, as named in our account.
	Publish, Subscribe []string
	// erp: it has an account of its own.
	erp bool
	// answers: it may answer a question once, wherever the asker listens.
	answers bool
}

// InboxOf is where answers to a user arrive, without the last tokens; "" when the name cannot be part of a subject.
func InboxOf(user string) string {
	if !event.ValidToken(user) {
		return ""
	}
	return "_INBOX." + user
}

// Users are our own: one for each service, and the Operator.
func Users(services []Service) []User {
	var users []User
	for _, s := range services {
		users = append(users, worker(s))
	}
	return append(users, operator())
}

// worker is the user of a service.
func worker(s Service) User {
	u := newUser(s.Name)
	u.Subscribe, u.answers = append(u.Subscribe, event.WorkersAsked), true
	// It checks the topology, and reports its backlog.
	u.allow("$JS.API.STREAM.INFO.*", "$JS.API.CONSUMER.INFO.*.*")
	deadLetters := false
	for _, c := range s.Consumers {
		u.allowPull(c.Stream, c.Name)
		u.allow("$JS.API.STREAM.MSG.GET." + c.Stream)
		if c.ticks() {
			continue
		}
		if c.lanes() {
			u.allowLanes(c)
		}
		deadLetters = true
		u.allowPull(streamRetry, retryName(c.Name))
		u.allow(
			event.DelaySubject(c.Name, "*"), event.RetrySubject(c.Name, "*"),
			event.DeadLetterFilter(event.Dead, c.Name), event.DeadLetterFilter(event.Held, c.Name),
			// To release held messages whose cause is gone, and to expire dead letters.
			"$JS.API.CONSUMER.CREATE."+streamDeadLetters+".*."+event.DeadLetterFilter(event.Held, c.Name),
			"$JS.API.CONSUMER.CREATE."+streamDeadLetters+".*."+event.DeadLetterFilter(event.Dead, c.Name),
		)
	}
	if deadLetters {
		u.allow("$JS.API.STREAM.MSG.GET."+streamRetry, "$JS.API.STREAM.PURGE."+streamRetry,
			"$JS.API.STREAM.MSG.GET."+streamDeadLetters, "$JS.API.STREAM.MSG.DELETE."+streamDeadLetters,
			pullPrefix+streamDeadLetters+".*", "$JS.API.CONSUMER.DELETE."+streamDeadLetters+".*")
	}
	for _, t := range s.Ticks { // it fires those of the sellers that have something to do
		u.allow(event.DueSubject(t.Kind, "*"))
	}
	for _, stream := range s.Reads {
		// The server makes up no name for a consumer with several filters, so none of them is part of the API subject.
		u.allow("$JS.API.STREAM.MSG.GET."+stream, "$JS.API.CONSUMER.CREATE."+stream+".*", pullPrefix+stream+".*", "$JS.API.CONSUMER.DELETE."+stream+".*")
	}
	for _, c := range s.Oversees {
		u.allowOversight(c)
	}
	for _, f := range event.Facts() {
		if !f.FromERP {
			u.allow(f.Name + ".*")
		}
	}
	for _, row := range streams {
		if row.public && !row.intake { // to read the message that an event of ours is said to duplicate
			u.allow("$JS.API.STREAM.MSG.GET." + row.name)
		}
	}
	for _, b := range buckets {
		u.allowWatch(b.name)
		u.allow("$KV." + b.name + "." + b.workers)
	}
	return u
}

// allowLanes permits to open a consumer's lanes, for its own messages, to pull from them and to delete them. Permissions
// cannot cover part of a name, so each lane has its own.
func (u *User) allowLanes(c Consumer) {
	u.allow("$JS.API.CONSUMER.LIST." + c.Stream)
	for _, name := range laneNames(c.Name) {
		u.allowPull(c.Stream, name)
		u.allow("$JS.API.CONSUMER.DELETE." + c.Stream + "." + name)
		for _, filter := range c.Filters {
			u.allow("$JS.API.CONSUMER.CREATE." + c.Stream + "." + name + "." + filter)
		}
	}
}

func (u *User) allowOversight(c Consumer) {
	// The streams of its events, today and in earlier builds, and that of the outcomes.
	for _, stream := range append(Holding(c.Topic), StreamOrders) {
		u.allow("$JS.API.STREAM.MSG.GET."+stream, "$JS.API.CONSUMER.CREATE."+stream+".>", pullPrefix+stream+".*")
	}
	u.allow("$JS.API.STREAM.MSG.GET."+streamRetry, "$JS.API.STREAM.MSG.GET."+streamDeadLetters, event.RetrySubject(c.Name, "*"),
		"$JS.API.CONSUMER.CREATE."+streamDeadLetters+".*."+event.DeadLetterFilter(event.Dead, c.Name),
		"$JS.API.CONSUMER.CREATE."+streamDeadLetters+".*."+event.DeadLetterFilter(event.Held, c.Name),
		pullPrefix+streamDeadLetters+".*", "$JS.API.CONSUMER.DELETE."+streamDeadLetters+".*")
}

// operator is the user of bridgectl.
func operator() User {
	u := newUser(Operator)
	u.allow("$JS.API.>", "$JS.ACK.>", "$JS.FC.>", event.WorkersAsked)
	for _, row := range streams {
		u.allow(row.subjects...)
	}
	for _, b := range buckets {
		u.allow("$KV." + b.name + ".>")
	}
	return u
}

// SellerUser is the user of a seller's ERP, erp-<seller>: it publishes what an ERP publishes, of this seller only, and
// reads the events about it: live by subscribing, and durably through the consumer of its own name on each public
// stream, when the operator has created one. It must have an account of its own, as WriteUsers arranges.
func SellerUser(seller string) (User, error) {
	if !event.ValidSeller(seller) {
		return User{}, fmt.Errorf("seller %q: want a-z, 0-9, _ and -, 32 at most", seller)
	}
	u := User{Name: "erp-" + seller, erp: true, Subscribe: []string{anyInbox}}
	for _, f := range event.Facts() {
		if f.FromERP {
			u.allow(f.Name + "." + seller)
		} else {
			u.Subscribe = append(u.Subscribe, f.Name+"."+seller)
		}
	}
	for _, row := range streams {
		if row.public && !row.intake {
			u.allow("$JS.API.CONSUMER.INFO." + row.name + "." + u.Name)
			u.allowPull(row.name, u.Name)
		}
	}
	return u, nil
}

// anyInbox is every inbox of an account.
const anyInbox = "_INBOX.>"

func newUser(name string) User { return User{Name: name, Subscribe: []string{InboxOf(name) + ".>"}} }

func (u *User) allow(subjects ...string) {
	for _, s := range subjects {
		if !slices.Contains(u.Publish, s) {
			u.Publish = append(u.Publish, s)
		}
	}
}

// allowPull permits to pull from a consumer and to ack its messages. The second form of acks is the one that NATS is
// changing to, with the domain and the account in front (feature flag js_ack_fc_v2).
func (u *User) allowPull(stream, consumer string) {
	u.allow(pullPrefix+stream+"."+consumer,
		"$JS.ACK."+stream+"."+consumer+".>", "$JS.ACK.*.*."+stream+"."+consumer+".>")
}

// allowWatch permits to read a bucket and to watch its changes.
func (u *User) allowWatch(bucket string) {
	stream := bucketPrefix + bucket
	u.allow("$JS.API.DIRECT.GET."+stream+".>", "$JS.API.STREAM.MSG.GET."+stream,
		"$JS.API.CONSUMER.CREATE."+stream+".>", "$JS.API.CONSUMER.DELETE."+stream+".*", "$JS.FC."+stream+".>")
}

// WriteUsers writes the users of the services, the operator and the sellers as a file to include in a server's configuration. Passwords, or
// their bcrypt hashes, come from the server's environment.
func WriteUsers(w io.Writer, services []Service, sellers ...string) error {
	var erps []User
	seen := map[string]string{}
	for _, seller := range sellers {
		u, err := SellerUser(seller)
		if err != nil {
			return err
		}
		if other, taken := seen[envName(u.Name)]; taken {
			return fmt.Errorf("users %s and %s: %w", other, u.Name, errSameEnvName)
		}
		seen[envName(u.Name)] = u.Name
		erps = append(erps, u)
	}
	var out strings.Builder
	out.WriteString(usersHead)
	fmt.Fprintf(&out, "  %s {\n    jetstream: enabled\n    users: [\n", account)
	for _, u := range Users(services) {
		u.write(&out)
	}
	out.WriteString("    ]\n    exports: [\n")
	for _, u := range erps {
		u.exports(&out)
	}
	out.WriteString("    ]\n  }\n")
	for _, u := range erps {
		fmt.Fprintf(&out, "  %s {\n    users: [\n", envName(u.Name))
		u.write(&out)
		out.WriteString("    ]\n    imports: [\n")
		u.imports(&out)
		out.WriteString("    ]\n  }\n")
	}
	out.WriteString("}\n")
	_, err := io.WriteString(w, out.String())
	return err
}

var errSameEnvName = errors.New("they would share an account and a password; leave one out and add it by hand")

// account holds everything that is ours.
const account = "STOCKBRIDGE"

const usersHead = `# Users with only their subjects. Made by bridgectl topology users: make it again after an upgrade, do not edit.
# 每个用户只能访问自己的主题。由 bridgectl topology users 生成，升级后请重新生成，勿手工修改。
# A password is a variable of the server's environment: text that begins with a letter, or its bcrypt hash.
# Of ours each has inboxes of its own, _INBOX.<user>.>. An ERP stands in an account of its own: permissions alone do not
# keep sellers apart, because JetStream answers to whatever subject a publisher names.
accounts {
`

// envName is a user's name in capitals: its account, and the prefix of its password's variable.
func envName(user string) string { return strings.ToUpper(strings.ReplaceAll(user, "-", "_")) }

// Domain is the JetStream domain that an ERP's client names to read through its consumer. $JS.API itself is answered in
// each account by the server, which would say that the account has no streams.
const Domain = "bridge"

const apiPrefix = "$JS.API."

// inERPAccount is the name, in an ERP's account, of a subject of our API.
func inERPAccount(subject string) string {
	if call, ok := strings.CutPrefix(subject, apiPrefix); ok {
		return "$JS." + Domain + ".API." + call
	}
	return subject
}

func (u User) write(out *strings.Builder) {
	fmt.Fprintf(out, "      {\n        user: %q, password: $%s_PASSWORD\n        permissions {\n", u.Name, envName(u.Name))
	for _, may := range []struct {
		what     string
		subjects []string
	}{{"publish", u.Publish}, {"subscribe", u.Subscribe}} {
		fmt.Fprintf(out, "          %s: { allow: [\n", may.what)
		for _, s := range may.subjects {
			if u.erp {
				s = inERPAccount(s)
			}
			fmt.Fprintf(out, "            %q\n", s)
		}
		out.WriteString("          ] }\n")
	}
	if u.answers {
		out.WriteString("          allow_responses: { max: 1, expires: \"10s\" }\n")
	}
	out.WriteString("        }\n      }\n")
}

// exports and imports carry what an ERP publishes into our account, and what it may receive out of it.
func (u User) exports(out *strings.Builder) {
	for _, s := range u.Publish {
		several := ""
		if strings.HasPrefix(s, pullPrefix) {
			several = "response_type: stream, " // a pull is answered by messages and statuses
		}
		fmt.Fprintf(out, "      { service: %q, %saccounts: [%s] }\n", s, several, envName(u.Name))
	}
	for _, s := range u.Subscribe {
		if s != anyInbox {
			fmt.Fprintf(out, "      { stream: %q, accounts: [%s] }\n", s, envName(u.Name))
		}
	}
}

func (u User) imports(out *strings.Builder) {
	for _, s := range u.Publish {
		fmt.Fprintf(out, "      { service: { account: %s, subject: %q }, to: %q }\n", account, s, inERPAccount(s))
	}
	for _, s := range u.Subscribe {
		if s != anyInbox {
			fmt.Fprintf(out, "      { stream: { account: %s, subject: %q } }\n", account, s)
		}
	}
}

const pullPrefix = "$JS.API.CONSUMER.MSG.NEXT."
