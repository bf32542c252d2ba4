package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCerts(t *testing.T) {
	t.Parallel()
	directory := filepath.Join(t.TempDir(), "new", "certs")
	stdout, err := execute(t, "certs", "--out", directory, "--server-name", "tollgate.svc,10.0.0.1", "--valid-for", "2h")
	require.NoError(t, err)
	want := ""
	for _, file := range []string{"ca.crt", "ca.key", "server.crt", "server.key", "client.crt", "client.key"} {
		path := filepath.Join(directory, file)
		want += path + "\n"
		info, err := os.Stat(path)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode(), file)
	}
	assert.Equal(t, want, stdout)
	ca, server, client := readCertificate(t, directory, "ca"), readCertificate(t, directory, "server"), readCertificate(t, directory, "client")
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	for certificate, usage := range map[*x509.Certificate]x509.ExtKeyUsage{server: x509.ExtKeyUsageServerAuth, client: x509.ExtKeyUsageClientAuth} {
		_, err := certificate.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}})
		require.NoError(t, err)
		assert.Equal(t, mixerID, certificate.URIs[0].String(), "Mixer wants its own id in the server's certificate")
		assert.WithinDuration(t, time.Now().Add(2*time.Hour), certificate.NotAfter, time.Minute)
	}
	require.NoError(t, server.VerifyHostname("tollgate.svc"))
	require.NoError(t, server.VerifyHostname("10.0.0.1"))
	require.Error(t, server.VerifyHostname("localhost"))
	for _, name := range []string{"server", "client", "ca"} {
		_, err := tls.LoadX509KeyPair(filepath.Join(directory, name+".crt"), filepath.Join(directory, name+".key"))
		require.NoError(t, err)
	}

	// Once more replaces nothing.
	stdout, err = execute(t, "certs", "--out", directory)
	require.EqualError(t, err, "certs: "+filepath.Join(directory, "ca.crt")+" is there already; choose another --out, or --rotate to replace the certificates and keep the CA")
	assert.Empty(t, stdout)
	assert.Equal(t, server.Raw, readCertificate(t, directory, "server").Raw)
	elsewhere := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(elsewhere, "client.key"), []byte("somebody's"), 0o600))
	_, err = execute(t, "certs", "--out", elsewhere)
	require.ErrorContains(t, err, "client.key is there already")
	_, err = os.Stat(filepath.Join(elsewhere, "ca.key"))
	require.ErrorIs(t, err, os.ErrNotExist, "all or nothing")

	// A rotation keeps the authority.
	stdout, err = execute(t, "certs", "--out", directory, "--rotate")
	require.NoError(t, err)
	assert.NotContains(t, stdout, "ca.")
	assert.Contains(t, stdout, filepath.Join(directory, "server.key")+"\n")
	assert.Equal(t, ca.Raw, readCertificate(t, directory, "ca").Raw)
	renewed := readCertificate(t, directory, "server")
	assert.NotEqual(t, server.Raw, renewed.Raw)
	_, err = renewed.Verify(x509.VerifyOptions{Roots: roots})
	require.NoError(t, err)

	require.NoError(t, os.Remove(filepath.Join(directory, "ca.key")))
	_, err = execute(t, "certs", "--out", directory, "--rotate")
	require.ErrorContains(t, err, "certs: ca.crt and ca.key belong together; remove what is left of them")
	require.NoError(t, os.WriteFile(filepath.Join(directory, "ca.key"), []byte("x"), 0o600))
	_, err = execute(t, "certs", "--out", directory, "--rotate")
	require.ErrorContains(t, err, "are not what `tollgate certs` makes")
	_, err = execute(t, "certs", "--out", directory, "--valid-for", "0s")
	require.EqualError(t, err, "certs: --valid-for is 0s; use more than 0s")
}

func readCertificate(t *testing.T, directory, name string) *x509.Certificate {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(directory, name+".crt"))
	require.NoError(t, err)
	block, _ := pem.Decode(content)
	require.NotNil(t, block)
	certificate, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	return certificate
}

// What the command makes is what serve and healthcheck take.
func TestServeOverTLS(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	_, err := execute(t, "certs", "--out", directory, "--server-name", "localhost")
	require.NoError(t, err)
	in := func(file string) string { return filepath.Join(directory, file) }
	settings := settingsFile(t, fmt.Sprintf("tls: {cert: %q, key: %q, client_ca: %q, client_names: [%q]}", in("server.crt"), in("server.key"), in("ca.crt"), mixerID))
	p := serve(t, "--settings", settings, "--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0")
	probe := func(flags ...string) error {
		stdout, err := execute(t, patientHealthcheck(append(flags, "--address", p.address)...)...)
		if err == nil {
			assert.Equal(t, "SERVING\n", stdout)
		}
		return err
	}
	require.NoError(t, probe("--tls-ca", in("ca.crt"), "--tls-server-name", "localhost"))
	require.NoError(t, probe("--tls-unverified"))
	require.ErrorContains(t, probe("--tls-ca", in("ca.crt")), "does not answer", "the certificate is not for the address")
	require.ErrorContains(t, probe(), "does not answer", "plaintext")
	require.EqualError(t, probe("--tls-server-name", "localhost"), "healthcheck: --tls-server-name stands without --tls-ca; name the file of the authorities that signed the certificate there")
	require.EqualError(t, probe("--tls-ca", in("ca.key")), "healthcheck: --tls-ca: "+in("ca.key")+" holds no certificate in PEM")
	require.ErrorContains(t, probe("--tls-ca", in("away")), "healthcheck: --tls-ca: open ")
	require.NoError(t, p.command.Process.Signal(os.Interrupt))
	assert.Equal(t, 0, p.end(t).ExitCode())
}

// A probe asks whom it names, and no proxy, which would answer for itself or not know the way.
func TestHealthcheckAsksNoProxy(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	p := serve(t, free...)
	_, port, err := net.SplitHostPort(p.address)
	require.NoError(t, err)
	// It leads to this machine, but nobody takes it for an address that proxies are never asked for.
	stdout, stderr, code := run(t, patientHealthcheck("--address", "0.0.0.0:"+port)...)
	assert.Equal(t, []any{"SERVING\n", "", 0}, []any{stdout, stderr, code})
	require.NoError(t, p.command.Process.Signal(os.Interrupt))
	assert.Equal(t, 0, p.end(t).ExitCode())
}

func TestServeOnASocket(t *testing.T) {
	t.Parallel()
	directory, err := os.MkdirTemp("/tmp", "tg") //nolint:usetesting // its names are too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(directory)) })
	path := filepath.Join(directory, "tollgate.sock")
	p := serve(t, "--listen", "unix://"+path, "--admin", "")
	assert.Equal(t, "unix://"+path, p.address)
	stdout, err := execute(t, patientHealthcheck("--address", p.address)...)
	require.NoError(t, err)
	assert.Equal(t, "SERVING\n", stdout)
	require.NoError(t, p.command.Process.Kill())
	_ = p.end(t)
	assert.FileExists(t, path, "a killed process leaves it behind")

	p = serve(t, "--listen", "unix://"+path, "--admin", "")
	require.NoError(t, p.command.Process.Signal(os.Interrupt))
	assert.Equal(t, 0, p.end(t).ExitCode())
	assert.NoFileExists(t, path)
}
