package draw

import (
	"dmps/chaos/figures"
	"errors"
	"fmt"
	"os"

	"dmps/chaos/research/paper"
)

// All draws every figure that has data in the folder data, into the folder dir.
// It returns the names of the pictures, and of the figures that were not
// measured.
func All(data, dir string) (drawn, missing []string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, fmt.Errorf("drawing: %w", err)
	}
	one := func(f func(string) (*picture, error)) func(string) ([]*picture, error) {
		return func(dir string) ([]*picture, error) {
			p, err := f(dir)
			return []*picture{p}, err
		}
	}
	draws := map[string]func(data string) ([]*picture, error){
		paper.FigureMessage: one(message), paper.FigureDirect: one(direct), paper.FigureFile: one(filesystem),
		paper.FigureFill: one(fill), paper.FigureCluster: cluster, paper.FigureApps: one(apps), paper.FigurePaths: one(paths),
	}
	for _, name := range paper.Figures {
		pictures, err := draws[name](data)
		if errors.Is(err, figures.ErrNotMeasured) {
			missing = append(missing, name)
			continue
		}
		if err != nil {
			return drawn, missing, err
		}
		for _, p := range pictures {
			if err := p.save(dir); err != nil {
				return drawn, missing, err
			}
			drawn = append(drawn, p.name)
		}
	}
	return drawn, missing, nil
}
