package nginx

import (
	_ "embed"
	"strings"
)

// acmeChallenge is the snippet as it is installed for operators: it works as it stands for the default paths.
//
//go:embed snippets/acme-challenge.conf
var acmeChallenge string

const (
	defaultChallengeRoot = "/etc/nginx/certs/acme"
	defaultSocket        = "/run/certswarm/http01.sock"
)

// Snippet returns the locations with which a server block on port 80 answers http-01 challenges: files below
// challengeRoot first (the acme/ of the store), then the Responder on socket. Both are absolute paths.
func Snippet(challengeRoot, socket string) string {
	text := strings.Replace(acmeChallenge, "root "+defaultChallengeRoot+";", "root "+quote(challengeRoot)+";", 1)
	return strings.Replace(text, "http://unix:"+defaultSocket+";", quote("http://unix:"+socket)+";", 1)
}

// quote makes one argument of anything that is not one already. A variable cannot be quoted away: a path with a $ in it
// is a path that nginx cannot use.
func quote(argument string) string {
	if !strings.ContainsAny(argument, " \t\r\n;{}\"'\\#") {
		return argument
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(argument) + `"`
}
