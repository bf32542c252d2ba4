package main

import (
	_ "embed"
	"encoding/base64"
	"errors"
	"strings"
	"text/template"
)

// templateName is the file option that names a Mixer template.
const templateName = "istio.mixer.adapter.model.v1beta1.template_name"

// bundleTemplate is the bundle's text, with its explanation for operators.
//
//go:embed bundle.yaml.tmpl
var bundleTemplate string

// A bundle collects what operators apply: Mixer's templates and, after them,
// the adapter that lists them.
type bundle struct {
	Templates []templateResource
	Config    string
}

// A templateResource is one Mixer template. The resource carries the
// template's own name, under which instances refer to it.
type templateResource struct {
	Name       string
	Descriptor string
}

// add puts a compiled source and its descriptor set where the bundle needs it.
func (b *bundle) add(c *compiled, set []byte) error {
	encoded := base64.StdEncoding.EncodeToString(set)
	switch c.kind {
	case mixerTemplate:
		name, err := c.extension(templateName)
		if err != nil {
			return err
		}
		b.Templates = append(b.Templates, templateResource{Name: name, Descriptor: encoded})
	case handlerConfig:
		if b.Config != "" {
			return errors.New("is a second handler configuration: an adapter resource holds one")
		}
		b.Config = encoded
	}
	return nil
}

// render writes the bundle's YAML.
func (b *bundle) render() ([]byte, error) {
	t, err := template.New("bundle").Option("missingkey=error").Parse(bundleTemplate)
	if err != nil {
		return nil, err
	}
	var out strings.Builder
	if err := t.Execute(&out, b); err != nil {
		return nil, err
	}
	return []byte(out.String()), nil
}
