package config

import (
	"fmt"
	"slices"
)

// pairs makes two certificates of each one whose key is a pair of types. The first key's keeps the name; the other's is called after it and its
// own kind of key: www.example.com and www.example.com-rsa. Each is obtained, renewed and rolled back by itself; nginx is given both.
func (v *checker) pairs() {
	written := len(v.Certificates)
	for i := range written {
		c, path := &v.Certificates[i], fmt.Sprintf("certificates[%d]", i)
		if len(c.Key) != 2 || v.wrong(path+".key") || v.wrong(path+".name") {
			continue
		}
		other := *c
		other.Name, other.Key = c.Name+"-"+c.Key[1].kind(), c.Key[1:]
		same := func(c Certificate) bool { return c.Name == other.Name }
		if n := slices.IndexFunc(v.Certificates, same); n >= 0 {
			if n >= written {
				continue // two pairs of one name
			}
			v.refuse(path+".key", fmt.Sprintf("key: the pair's second certificate is called %s, which stands at %s", other.Name, v.places[fmt.Sprintf("certificates[%d].name", n)]),
				"write one type, or give that one another name")
			continue
		}
		v.name(path+".name", other.Name, certificateName.MatchString, "a shorter name: a pair's second certificate is called after it")
		c.Key = c.Key[:1:1]
		v.Certificates = append(v.Certificates, other)
	}
}

// kind is what the contract calls keys of this type.
func (k KeyType) kind() string {
	if k.IsRSA() {
		return "rsa"
	}
	return "ecdsa"
}
