from groundnlq.cli import main

raise SystemExit(main())
