package client

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestValidate(t *testing.T) {
	for name, c := range map[string]struct {
		tls  TLS
		want []string
	}{
		"nothing":       {TLS{}, nil},
		"system's CAs":  {TLS{Enabled: true}, nil},
		"all":           {TLS{Enabled: true, CA: "ca", Cert: "cert", Key: "key", ServerName: "name"}, nil},
		"not enabled":   {TLS{CA: "ca", Cert: "cert", Key: "key", ServerName: "name"}, []string{`tls.ca is "ca"`, `tls.cert is "cert"`, `tls.key is "key"`, `tls.server_name is "name"`}},
		"no key":        {TLS{Enabled: true, Cert: "cert"}, []string{`tls.cert is "cert" without`}},
		"no cert":       {TLS{Enabled: true, Key: "key"}, []string{`tls.key is "key" without`}},
		"several wrong": {TLS{CA: "ca", Key: "key"}, []string{"tls.ca", "tls.key is \"key\" but", "without a tls.cert"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.tls.Validate()
			if c.want == nil {
				require.NoError(t, err)
				return
			}
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
			config, err := c.tls.Config()
			require.Error(t, err)
			assert.Nil(t, config)
		})
	}
}

func TestConfig(t *testing.T) {
	config, err := TLS{}.Config()
	require.NoError(t, err)
	assert.Nil(t, config)

	config, err = TLS{Enabled: true, ServerName: "name"}.Config()
	require.NoError(t, err)
	assert.EqualValues(t, tls.VersionTLS12, config.MinVersion)
	assert.Equal(t, "name", config.ServerName)
	assert.False(t, config.InsecureSkipVerify, "without a CA of its own crypto/tls verifies")
}

// Each step changes files and shakes hands anew with one and the same config.
func TestRotation(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			dir := t.TempDir()
			ours := TLS{Enabled: true, CA: filepath.Join(dir, "ca"), Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}
			config, err := ours.Config()
			require.NoError(t, err, "no file is there yet")

			first, second := newAuthority(t, "first"), newAuthority(t, "second")
			address, present, trust := serve(t, version)

			present(first.issue(t, "server.test"))
			trust(first)
			require.ErrorIs(t, shake(t, address, config), os.ErrNotExist)

			write(t, ours.CA, first.pem)
			cert, key := files(t, first.issue(t, "we"))
			write(t, ours.Cert, cert)
			write(t, ours.Key, key)
			require.NoError(t, shake(t, address, config))

			present(second.issue(t, "server.test"))
			require.ErrorAs(t, shake(t, address, config), new(x509.UnknownAuthorityError), "the other side has moved on, we have not")
			write(t, ours.CA, second.pem)
			require.NoError(t, shake(t, address, config))

			trust(second)
			require.Error(t, shake(t, address, config), "our certificate is of yesterday")
			cert, key = files(t, second.issue(t, "we"))
			write(t, ours.Cert, cert)
			require.ErrorContains(t, shake(t, address, config), "not a PEM certificate and its private key", "half of a rotation")
			write(t, ours.Key, key)
			require.NoError(t, shake(t, address, config))

			present(second.issue(t, "somebody.test"))
			require.ErrorAs(t, shake(t, address, config), new(x509.HostnameError))
		})
	}
}

func TestVersions(t *testing.T) {
	authority := newAuthority(t, "ca")
	address, present, _ := serve(t, tls.VersionTLS11)
	present(authority.issue(t, "server.test"))
	ca := filepath.Join(t.TempDir(), "ca")
	write(t, ca, authority.pem)
	config, err := TLS{Enabled: true, CA: ca}.Config()
	require.NoError(t, err)
	require.ErrorContains(t, shake(t, address, config), "protocol version")
}

func TestServerName(t *testing.T) {
	authority := newAuthority(t, "ca")
	address, present, _ := serve(t, tls.VersionTLS13)
	ca := filepath.Join(t.TempDir(), "ca")
	write(t, ca, authority.pem)
	for name, c := range map[string]struct {
		issued, configured, dialed string
		want                       string
	}{
		"by name":               {"server.test", "", "server.test", ""},
		"configured":            {"server.test", "server.test", "", ""},
		"address":               {"127.0.0.1", "127.0.0.1", "", ""},
		"address, configured":   {"server.test", "server.test", "127.0.0.1", ""},
		"other address":         {"127.0.0.2", "127.0.0.1", "", "valid for 127.0.0.2, not 127.0.0.1"},
		"address, not told":     {"127.0.0.2", "", "127.0.0.1", "set tls.server_name"},
		"configured goes first": {"server.test", "other.test", "server.test", "not other.test"},
	} {
		t.Run(name, func(t *testing.T) {
			present(authority.issue(t, c.issued))
			config, err := TLS{Enabled: true, CA: ca, ServerName: c.configured}.Config()
			require.NoError(t, err)
			if c.dialed != "" { // what clients do with the host
				config.ServerName = c.dialed
			}
			err = shakeAs(t, address, config)
			if c.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.want)
			}
		})
	}
}

func TestBadFiles(t *testing.T) {
	const planted = "s3cret"
	authority := newAuthority(t, "ca")
	address, present, trust := serve(t, tls.VersionTLS12)
	present(authority.issue(t, "server.test"))
	trust(authority)
	cert, key := files(t, authority.issue(t, "we"))
	block := pem.EncodeToMemory(&pem.Block{Type: planted, Bytes: []byte(planted)})
	large := []byte(strings.Repeat(planted, maxPEM/len(planted)+1))
	for name, c := range map[string]struct {
		ca, cert, key []byte
		want          string
	}{
		"CA empty":   {nil, cert, key, "/ca has no PEM certificate"},
		"CA foreign": {block, cert, key, "/ca has no PEM certificate"},
		"CA large":   {large, cert, key, "/ca is larger than 4194304 bytes"},
		"cert empty": {authority.pem, nil, key, "/cert and "},
		"cert other": {authority.pem, block, key, "/key are not"},
		"cert large": {authority.pem, large, key, "/cert is larger than"},
		"key other":  {authority.pem, cert, block, "/key are not"},
		"key large":  {authority.pem, cert, large, "/key is larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			ours := TLS{Enabled: true, CA: filepath.Join(dir, "ca"), Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}
			write(t, ours.CA, c.ca)
			write(t, ours.Cert, c.cert)
			write(t, ours.Key, c.key)
			config, err := ours.Config()
			require.NoError(t, err)
			err = shake(t, address, config)
			require.ErrorContains(t, err, c.want)
			assert.NotContains(t, err.Error(), planted)
		})
	}
}

func TestCredential(t *testing.T) {
	const planted = "s3cret"
	for name, c := range map[string]struct{ content, want, problem string }{
		"plain":        {planted, planted, ""},
		"white space":  {" \t" + planted + " \r\n\n", planted, ""},
		"inner space":  {"a\nb", "a\nb", ""},
		"empty":        {"", "", "is empty"},
		"only space":   {" \n", "", "is empty"},
		"largest":      {strings.Repeat("s", maxCredential), strings.Repeat("s", maxCredential), ""},
		"too large":    {strings.Repeat("s", maxCredential+1), "", "is larger than 65536 bytes"},
		"large spaces": {planted + strings.Repeat(" ", maxCredential), "", "is larger than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "credential")
			write(t, path, []byte(c.content))
			secret, err := Credential{File: path}.Read()
			assert.Equal(t, c.want, secret)
			if c.problem == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, path)
			require.ErrorContains(t, err, c.problem)
			assert.NotContains(t, err.Error(), planted)
		})
	}
	t.Run("none", func(t *testing.T) {
		secret, err := Credential{}.Read()
		require.NoError(t, err)
		assert.Empty(t, secret)
	})
	t.Run("missing", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "credential")
		_, err := Credential{File: path}.Read()
		require.ErrorIs(t, err, os.ErrNotExist)
		require.ErrorContains(t, err, path)
	})
	t.Run("directory", func(t *testing.T) {
		dir := t.TempDir()
		_, err := Credential{File: dir}.Read()
		require.ErrorContains(t, err, dir)
	})
	t.Run("replaced", func(t *testing.T) {
		credential := Credential{File: filepath.Join(t.TempDir(), "credential")}
		for _, want := range []string{"first", "second"} {
			write(t, credential.File, []byte(want))
			secret, err := credential.Read()
			require.NoError(t, err)
			assert.Equal(t, want, secret)
		}
	})
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func files(t *testing.T, c tls.Certificate) (cert, key []byte) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, content, 0o600))
}

// serve is a TLS server of one version that presents a certificate and, once it trusts somebody, asks for one. It sends a byte to
// who is let in.
func serve(t *testing.T, version uint16) (address string, present func(tls.Certificate), trust func(*authority)) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var mu sync.Mutex
	var server tls.Certificate
	var clients *x509.CertPool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			raw, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			config := &tls.Config{Certificates: []tls.Certificate{server}, MinVersion: version, MaxVersion: version}
			if clients != nil {
				config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, clients
			}
			mu.Unlock()
			conn := tls.Server(raw, config)
			if conn.Handshake() == nil {
				_, _ = conn.Write([]byte{1})
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	present = func(c tls.Certificate) {
		mu.Lock()
		defer mu.Unlock()
		server = c
	}
	trust = func(a *authority) {
		mu.Lock()
		defer mu.Unlock()
		clients = x509.NewCertPool()
		clients.AddCert(a.cert)
	}
	return listener.Addr().String(), present, trust
}

// shake connects to the server that is called server.test.
func shake(t *testing.T, address string, config *tls.Config) error {
	t.Helper()
	config = config.Clone()
	config.ServerName = "server.test"
	return shakeAs(t, address, config)
}

// shakeAs connects and waits for the byte: with TLS 1.3 a client that is refused learns it only then.
func shakeAs(t *testing.T, address string, config *tls.Config) error {
	t.Helper()
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.ReadFull(conn, make([]byte, 1))
	return err
}
