package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tollgate-mesh/tollgate/adapter/transport/testca"
)

// mixerID is what Mixer is in a mesh that was installed without choosing names.
const mixerID = "spiffe://cluster.local/ns/istio-system/sa/istio-mixer-service-account"

// serverName is a DNS name, whose first label may be *.
var serverName = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]{0,250}[A-Za-z0-9])?$`)

func certsCommand() *cobra.Command {
	var (
		directory string
		names     []string
		id        string
		validFor  time.Duration
		rotate    bool
	)
	command := &cobra.Command{
		Use:   "certs",
		Short: "Make certificates for tests: an authority, one for the server, one for a client",
		Long: "Make a test CA, a server certificate and a client certificate, to try TLS with. THEY ARE FOR TESTS: the CA's key is not\n" +
			"protected and lies beside it. In earnest, take certificates from what issues them in your mesh.\n\n" +
			"Where Mixer uses `mutual`, it demands a SPIFFE id in the server's certificate that is one of its own, whatever the server is\n" +
			"called. So both certificates get the same id, --spiffe-id.\n\n" +
			"Files that are there stay as they are, and the command says so and ends. --rotate keeps the CA and puts new certificates of it in\n" +
			"place of the old ones.",
		Example: "  tollgate certs --out certs\n" +
			"  tollgate certs --out certs --server-name tollgate.istio-system.svc --valid-for 24h\n" +
			"  tollgate certs --out certs --rotate",
		Args: noArguments,
		RunE: func(command *cobra.Command, _ []string) error {
			if validFor <= 0 {
				return fmt.Errorf("certs: --valid-for is %s; use more than 0s", validFor)
			}
			if directory == "" {
				return errors.New(`certs: --out is ""; name a directory, which is made if it is not there`)
			}
			if _, err := spiffeid.FromString(id); err != nil {
				return fmt.Errorf("certs: --spiffe-id is %q; write Mixer's, such as %s: %w", id, mixerID, err)
			}
			for _, name := range names {
				if !serverName.MatchString(name) && net.ParseIP(name) == nil {
					return fmt.Errorf("certs: --server-name has %q; write DNS names and addresses without ports, such as tollgate.istio-system.svc", name)
				}
			}
			made, err := makeCertificates(directory, names, id, time.Now().Add(validFor), rotate)
			for _, file := range made {
				if _, err := fmt.Fprintln(command.OutOrStdout(), file); err != nil {
					return err
				}
			}
			if err != nil {
				return fmt.Errorf("certs: %w", err)
			}
			_, err = fmt.Fprintln(command.ErrOrStderr(), "The files ending in .key are private keys, which only you may read: keep them out of version control.")
			return err
		},
	}
	f := command.Flags()
	f.StringVar(&directory, "out", "certs", "directory for the files; made if it is not there")
	f.StringSliceVar(&names, "server-name", []string{"localhost", "127.0.0.1", "::1"}, "DNS names and addresses of the server")
	f.StringVar(&id, "spiffe-id", mixerID, "SPIFFE id in both certificates: Mixer's")
	f.BoolVar(&rotate, "rotate", false, "keep the directory's CA and replace the certificates that are there")
	f.DurationVar(&validFor, "valid-for", 30*24*time.Hour, "for how long both certificates are valid")
	return command
}

// makeCertificates writes the files and returns the paths of those that it wrote. It replaces none unless told to rotate.
func makeCertificates(directory string, names []string, id string, notAfter time.Time, rotate bool) (made []string, err error) {
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return nil, err
	}
	if !rotate {
		for _, name := range []string{"ca.crt", "ca.key", "server.crt", "server.key", "client.crt", "client.key"} {
			path := filepath.Join(directory, name)
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("%s is there already; choose another --out, or --rotate to replace the certificates and keep the CA", path)
			}
		}
	}
	put := func(name string, pair testca.Pair) error {
		crt, key := filepath.Join(directory, name+".crt"), filepath.Join(directory, name+".key")
		if err := errors.Join(replaceFile(key, pair.Key), replaceFile(crt, pair.Cert)); err != nil {
			return err
		}
		made = append(made, crt, key)
		return nil
	}
	authority, err := loadAuthority(directory)
	if errors.Is(err, fs.ErrNotExist) {
		var own testca.Pair
		if authority, err = testca.New(); err == nil {
			own, err = authority.Pair()
		}
		if err == nil {
			err = put("ca", own)
		}
	}
	if err != nil {
		return made, err
	}
	for _, leaf := range []struct {
		file  string
		names []string
	}{{"server", append([]string{id}, names...)}, {"client", []string{id}}} {
		pair, err := authority.Issue(testca.Leaf{Names: leaf.names, NotAfter: notAfter})
		if err == nil {
			err = put(leaf.file, pair)
		}
		if err != nil {
			return made, err
		}
	}
	return made, nil
}

// loadAuthority returns the directory's CA; fs.ErrNotExist where it has none, and another error where it has half of one.
func loadAuthority(directory string) (*testca.Authority, error) {
	cert, certErr := os.ReadFile(filepath.Join(directory, "ca.crt"))
	key, keyErr := os.ReadFile(filepath.Join(directory, "ca.key"))
	switch {
	case errors.Is(certErr, fs.ErrNotExist) && errors.Is(keyErr, fs.ErrNotExist):
		return nil, fs.ErrNotExist
	case certErr != nil || keyErr != nil:
		return nil, fmt.Errorf("ca.crt and ca.key belong together; remove what is left of them: %v", errors.Join(certErr, keyErr)) //nolint:errorlint // half a CA is not the absence of one
	}
	authority, err := testca.Load(testca.Pair{Cert: cert, Key: key})
	if err != nil {
		return nil, fmt.Errorf("ca.crt and ca.key in %s are not what `tollgate certs` makes; choose another directory: %w", directory, err)
	}
	return authority, nil
}

// replaceFile puts a file in its place as a whole: a server may read it at any time. Only the owner may read it.
func replaceFile(path string, content []byte) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	_, err = file.Write(content)
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	return err
}
