package image

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// The part of SPDX 2.3 that says which modules a program is made of.
type spdx struct {
	Version       string         `json:"spdxVersion"`
	License       string         `json:"dataLicense"`
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Namespace     string         `json:"documentNamespace"`
	Creation      spdxCreation   `json:"creationInfo"`
	Packages      []spdxPackage  `json:"packages"`
	Relationships []spdxRelation `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID        string         `json:"SPDXID"`
	Name      string         `json:"name"`
	Version   string         `json:"versionInfo"`
	Download  string         `json:"downloadLocation"`
	Analyzed  bool           `json:"filesAnalyzed"`
	Purpose   string         `json:"primaryPackagePurpose,omitempty"`
	Concluded string         `json:"licenseConcluded"`
	Declared  string         `json:"licenseDeclared"`
	Copyright string         `json:"copyrightText"`
	Checksums []spdxChecksum `json:"checksums,omitempty"`
	Refs      []spdxRef      `json:"externalRefs,omitempty"`
	Comment   string         `json:"comment,omitempty"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelation struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

// SBOM is the bill of materials of a Go program, as SPDX 2.3 in JSON: what the
// linker wrote into it, so that it can't be about something else.
func SBOM(program, version string, created time.Time) ([]byte, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("read what %s is made of: %w", program, err)
	}
	raw, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	return json.MarshalIndent(document(info, path.Base(info.Path), version, hex.EncodeToString(sum[:]), created), "", "  ")
}

func document(info *debug.BuildInfo, name, version, sum string, created time.Time) spdx {
	const none = "NOASSERTION"
	main := spdxPackage{
		ID: "SPDXRef-Program", Name: name, Version: version, Download: none, Purpose: "APPLICATION",
		Concluded: none, Declared: none, Copyright: none,
		Checksums: []spdxChecksum{{"SHA256", sum}},
		Refs:      []spdxRef{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + info.Main.Path + "@" + version + "#" + strings.TrimPrefix(info.Path, info.Main.Path+"/")}},
	}
	d := spdx{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: name,
		Namespace:     "https://" + info.Main.Path + "/sbom/" + name + "-" + sum,
		Creation:      spdxCreation{Created: created.UTC().Format(time.RFC3339), Creators: []string{"Tool: tunmesh-deploy-image"}},
		Packages:      []spdxPackage{main},
		Relationships: []spdxRelation{{"SPDXRef-DOCUMENT", "DESCRIBES", main.ID}},
	}
	deps := append([]*debug.Module{{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}}, info.Deps...)
	slices.SortFunc(deps, func(a, b *debug.Module) int { return strings.Compare(a.Path, b.Path) })
	for i, m := range deps {
		if m.Replace != nil {
			m = m.Replace
		}
		p := spdxPackage{
			ID: fmt.Sprintf("SPDXRef-Module-%d", i+1), Name: m.Path, Version: m.Version, Download: none, Purpose: "LIBRARY",
			Concluded: none, Declared: none, Copyright: none,
			Refs: []spdxRef{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + m.Path + "@" + m.Version}},
		}
		if m.Sum != "" {
			p.Comment = "go.sum " + m.Sum
		}
		d.Packages = append(d.Packages, p)
		d.Relationships = append(d.Relationships, spdxRelation{main.ID, "DEPENDS_ON", p.ID})
	}
	return d
}
